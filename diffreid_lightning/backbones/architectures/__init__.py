"""Architectures of Re-ID that timm does not have, registered with timm: importing this package makes their names known.

A new one is one new file with a function under ``timm.models.register_model``, and its base here. What the others rely
on: ``new_layers`` of a model names the beginnings of those of its tensors that no weights of the base bring, and
``part_sizes`` and ``group_sizes`` the pieces of a feature that consists of several.
"""

from collections.abc import Mapping

from diffreid_lightning.backbones.architectures import resnet_ibn, resnet_mgn, resnet_nonlocal, vit_overlap

BASES: Mapping[str, str] = {**resnet_ibn.BASES, **resnet_mgn.BASES, **resnet_nonlocal.BASES, **vit_overlap.BASES}
"""By architecture, the one whose weights fill all of its layers but the new ones; its own name where there is none."""

__all__ = ["BASES"]
