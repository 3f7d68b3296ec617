"""Any timm model as a Re-ID feature extractor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import einops
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from diffreid_lightning.backbones.network_variants import Edit, apply_variant, code_of, edits_of, variant_of
from diffreid_lightning.backbones.pooling import GeM
from diffreid_lightning.backbones.shape_probe import (
    DOES_NOT_FIT,
    Layout,
    evaluating,
    layout_of,
    needs_contiguous,
    unused_parameters,
    watching_patches,
)
from diffreid_lightning.backbones.stride import apply_edits, find_last_stride
from diffreid_lightning.backbones.timm_folder import RGB, Pooling, Stride, WeightTraits
from diffreid_lightning.backbones.timm_model import TimmModel, create_timm_model
from diffreid_lightning.errors import UserError, check_image_size, check_range

# How the positions of each layout of timm's feature maps reduce to one vector.
_PATTERNS: dict[str, str] = {"NCHW": "b c h w -> b c", "NHWC": "b h w c -> b c", "NLC": "b n c -> b c"}
_AXES: dict[str, tuple[int, ...]] = {"NCHW": (2, 3), "NHWC": (1, 2), "NLC": (1,)}
_POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class Backbone(nn.Module):
    """A timm model that turns images in [0, 1] into one feature vector each.

    It carries what its weights expect: the normalization, as buffers, and the last stride and the pooling, in its
    state. Whatever is left None is taken from the weights (:func:`~diffreid_lightning.backbones.load_initial_weights`)
    and, where they do not say, from the default named below; a value given here wins over the weights, with a warning.

    Args:
        name: a name of timm or of :mod:`~diffreid_lightning.backbones.architectures` (``resnet50``,
            ``resnet50.a1_in1k``, ``resnet50_ibn_a``), ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``.
        image_size: (height, width) of the images in pixels; architectures built for one size are built for this one.
        pooling: ``gem`` (generalized mean with a learnable exponent) or ``avg``, both over the positions of the map or
            the patch tokens without class and other prefix tokens; ``native`` is timm's own head up to the classifier
            (a ViT's class token, MobileNetV3's extra layer). Default: ``native`` for tokens, ``gem`` for maps.
        last_stride: 1 keeps the resolution of the last stage, without dilation (Luo et al., CVPRW 2019); 2 is the
            architecture's own. Default: 1.
        drop_path_rate: stochastic depth, 0 to 1.
        mean: per-channel mean of inputs in [0, 1], instead of the weights' own.
        std: per-channel deviation of inputs in [0, 1], instead of the weights' own.

    Attributes:
        num_features: dimension of the output; settled once the initial weights are loaded.
        last_stride: stride of the last downsampling, None where the architecture has no such stride to change.
        pooling: the pooling in use.
        variant: variation of the architecture that the weights were trained in, None for timm's own.
        memory_format: layout of the convolutions' memory that is fastest, and safe, on every device.

    Raises:
        UserError: the name is unknown, or the architecture cannot do what is asked.
    """

    mean: Tensor
    std: Tensor
    model: TimmModel

    def __init__(
        self,
        name: str,
        *,
        image_size: tuple[int, int] = (256, 128),
        pooling: Pooling | None = None,
        last_stride: Stride | None = None,
        drop_path_rate: float = 0.0,
        mean: RGB | None = None,
        std: RGB | None = None,
    ) -> None:
        super().__init__()
        check_image_size("image_size", image_size)
        check_range("drop_path_rate", drop_path_rate, 0, 1, below=True)
        self.name = name
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.model = create_timm_model(name, image_size=self.image_size, drop_path_rate=drop_path_rate)
        self.asked = WeightTraits(mean=mean, std=std, last_stride=last_stride, pooling=pooling)

        self.variant: str | None = None
        self.memory_format = torch.contiguous_format if needs_contiguous(self.model) else torch.channels_last

        # 1. Normalization: timm's values for this name until weights say otherwise.
        config = self.model.pretrained_cfg
        self.register_buffer("mean", _channels(mean or config["mean"]))
        self.register_buffer("std", _channels(std or config["std"]))

        # 2. Last stride.
        self._layout = self._find_layout()
        fixed_size = self.image_size if config.get("fixed_input_size") else None
        self._stride_edits = find_last_stride(self.model, fixed_size)
        self.last_stride: Stride | None = 2 if self._stride_edits else None
        if self._stride_edits:
            self.set_last_stride(last_stride or 1)
        elif last_stride == 1:
            rank_zero_info(f"{name} has no last stride to set to 1: it keeps the resolution it was designed with.")

        # 3. Pooling.
        self._frozen: tuple[str, ...] = ()
        self.pool: GeM | None = None
        self.set_pooling(pooling or ("gem" if self._layout in ("NCHW", "NHWC") else "native"))

    @property
    def architecture(self) -> str:
        """Registry name of the timm architecture."""
        return str(self.model.pretrained_cfg["architecture"])

    @property
    def parts(self) -> tuple[int, ...]:
        """Dimensions of the pieces of a feature that are classified one by one; the whole, where it has no parts."""
        return self._pieces("part_sizes")

    @property
    def groups(self) -> tuple[int, ...]:
        """Dimensions of the pieces of a feature that images are compared by; the whole, where it has no parts."""
        return self._pieces("group_sizes")

    def _pieces(self, attribute: str) -> tuple[int, ...]:
        sizes = getattr(self.model, attribute, None) if self.pooling == "native" else None
        return sizes or (self.num_features,)

    @property
    def new_layers(self) -> tuple[str, ...]:
        """Beginnings of the names, inside the timm model, of layers that weights of the base architecture lack."""
        return getattr(self.model, "new_layers", ())

    @property
    def normalization(self) -> tuple[RGB, RGB]:
        """Mean and deviation of inputs in [0, 1], per channel, as the buffers hold them."""
        return decimals(self.mean), decimals(self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Extract features.

        Args:
            images: (B, 3, H, W) in [0, 1], not normalized.

        Returns:
            (B, ``num_features``) features, neither batch-normalized nor of unit length.
        """
        if images.device.type == "cpu":  # where oneDNN's convolutions, above all depthwise ones, are faster this way
            images = images.contiguous(memory_format=self.memory_format)
        # Precisions that convert the network (bf16-true, 16-true, 64-true) leave the images as they are.
        normalized = ((images - self.mean) / self.std).to(self.mean.dtype)
        features = self.model.forward_features(normalized)
        if self.pooling == "native":
            return self.model.forward_head(features, pre_logits=True)
        if self._layout == "NLC":
            features = features[:, self.prefix_tokens :]
        if self.pool is not None:
            return self.pool(features)
        return einops.reduce(features, _PATTERNS[self._layout], "mean")

    def set_last_stride(self, last_stride: Stride) -> None:
        """Give the last downsampling stride 1 or 2; the weights are untouched. No effect where there is none."""
        if self._stride_edits:
            apply_edits(self.model, self._stride_edits, undo=last_stride != 1)
            self.last_stride = last_stride

    @property
    def edits(self) -> list[Edit]:
        """Attributes of layers that differ from what timm builds: (layer, attribute, value)."""
        stride = self._stride_edits if self.last_stride == 1 else ()
        return [*((edit.module, edit.attribute, edit.after) for edit in stride), *edits_of(self.variant)]

    @property
    def pooled_axes(self) -> tuple[int, ...] | None:
        """Axes of the map, or of the tokens, that are pooled over; None for the architecture's own head."""
        return None if self.pooling == "native" else _AXES[self._layout]

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patch tokens, which are not pooled; 0 for maps."""
        return _num_prefix_tokens(self.model) if self._layout == "NLC" else 0

    def set_pooling(self, pooling: Pooling) -> None:
        """Change the pooling; ``num_features`` may change with it, and the exponent of GeM starts anew at 3.

        The layers of timm's own head stay in the model, so that it opens with stock timm, but they are frozen while
        another pooling passes them by: a parameter that never gets a gradient is an error under DDP. A backbone that is
        not trained at all, such as a moving average, stays so.

        Raises:
            UserError: the architecture gives no single map or token sequence to pool.
        """
        if pooling != "native" and self._layout == "other":
            raise UserError(
                f"{self.name} cannot be pooled with {pooling!r}.",
                looked_for="one feature map (B, C, H, W) or (B, H, W, C), or tokens (B, N, C)",
                found="several maps at once",
                remedy="Use pooling: native.",
            )
        is_trained = any(parameter.requires_grad for parameter in self.parameters())
        for frozen in self._frozen:
            self.get_parameter(frozen).requires_grad_(True)
        self.pooling: Pooling = pooling
        self.pool = GeM(_PATTERNS[self._layout]).to(self.mean.device) if pooling == "gem" else None
        if not is_trained:
            self.requires_grad_(False)
        self.num_features, self._frozen = unused_parameters(self, self._blank())
        for unused in self._frozen:
            self.get_parameter(unused).requires_grad_(False)

    def set_variant(self, variant: str) -> None:
        """Turn the architecture into a variation of it, before the weights are filled in; there is no way back.

        Raises:
            UserError: the architecture has no such variation.
        """
        if variant != self.variant:
            apply_variant(self.model, variant, self.name)
            self.variant = variant

    def adopt(self, traits: WeightTraits) -> tuple[str, ...]:
        """Take over what weights expect, wherever the constructor left the choice open.

        Args:
            traits: what the weights say about themselves.

        Returns:
            One sentence for each trait that an explicit constructor argument contradicts; the argument stays in force
            and each sentence is also a warning.
        """
        if traits.variant is not None:
            self.set_variant(traits.variant)
        setters: dict[str, Callable[[Any], None]] = {
            "last_stride": self.set_last_stride,
            "pooling": lambda pooling: None if pooling == self.pooling else self.set_pooling(pooling),
            "mean": lambda mean: _fill(self.mean, mean),
            "std": lambda std: _fill(self.std, std),
        }
        overridden = []
        for trait, take in setters.items():
            recorded, asked = getattr(traits, trait), getattr(self.asked, trait)
            fixed = {"last_stride": self.last_stride is None, "pooling": self._layout == "other"}
            if recorded is None or fixed.get(trait):
                continue
            if asked is None:
                take(recorded)
            elif not _same(asked, recorded):
                overridden.append(f"the weights were trained with {trait} {recorded}, {asked} is asked for and used")
        for sentence in overridden:
            rank_zero_warn(f"{self.name}: {sentence}. Leave the argument out to follow the weights.")
        return tuple(overridden)

    def get_extra_state(self) -> Tensor:
        """Stride, pooling and variation as a tensor, so that a checkpoint restores the network with its weights."""
        variant = [] if self.variant is None else [code_of(self.variant)]
        return torch.tensor([self.last_stride or 0, _POOLINGS.index(self.pooling), *variant])

    def set_extra_state(self, state: Tensor) -> None:
        """Adopt stride, pooling and variation of a checkpoint; torch calls this before it fills the parameters."""
        self.adopt(traits_of_state(state))

    def extra_repr(self) -> str:
        """Show what distinguishes the backbone from the timm model inside."""
        return f"{self.name!r}, image_size={self.image_size}, pooling={self.pooling}, last_stride={self.last_stride}"

    def _blank(self) -> Tensor:
        return torch.zeros(1, 3, *self.image_size, device=self.mean.device)

    def _find_layout(self) -> Layout:
        try:
            with torch.no_grad(), evaluating(self), watching_patches(self.model, self.image_size) as cover:
                layout = layout_of(self.model, self.model.forward_features(self._blank()))
        except (*DOES_NOT_FIT, AttributeError, TypeError) as error:
            raise UserError(
                f"{self.name} cannot take images of {self.image_size[0]}x{self.image_size[1]} pixels.",
                found=f"{type(error).__name__}: {error}",
                remedy="Choose another image_size (height, width) or another backbone.",
            ) from error
        if any(cover.left_out):
            (height, width), (rows, columns) = self.image_size, cover.left_out
            whole = [max(size - size % unit, unit) for size, unit in zip(self.image_size, cover.unit, strict=True)]
            rank_zero_warn(
                f"{self.name} does not see the last {rows} rows and {columns} columns of an image of {height}x{width} "
                f"pixels, which its patches do not cover; of {whole[0]}x{whole[1]} pixels it sees all "
                f"(--data.image_size [{whole[0]},{whole[1]}])."
            )
        return layout


def traits_of_state(state: Tensor) -> WeightTraits:
    """Read what :meth:`Backbone.get_extra_state` wrote; a checkpoint without variation holds two numbers."""
    stride: dict[int, Stride] = {1: 1, 2: 2}
    numbers = [int(number) for number in state.flatten()]
    variant = variant_of(numbers[2]) if len(numbers) > 2 else None
    return WeightTraits(last_stride=stride.get(numbers[0]), pooling=_POOLINGS[numbers[1]], variant=variant)


def _num_prefix_tokens(model: nn.Module) -> int:
    """Count the class, distillation and register tokens before the patch tokens; older families do not say."""
    has_class_token = getattr(model, "cls_token", None) is not None
    return int(getattr(model, "num_prefix_tokens", 1 if has_class_token else 0))


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor([float(value) for value in values]).view(3, 1, 1)


def decimals(buffer: Tensor) -> RGB:
    """The shortest decimals that give the same float32 again: 0.485, and not 0.48500001430511475."""
    red, green, blue = (float(str(value)) for value in buffer.flatten().float().cpu().numpy())
    return red, green, blue


def _fill(buffer: Tensor, values: Sequence[float]) -> None:
    buffer.copy_(_channels(values))


def _same(asked: object, recorded: object) -> bool:
    """Compare two values of a trait; a list from YAML equals the tuple, and 127/255 equals 0.498."""
    if isinstance(asked, Sequence) and isinstance(recorded, Sequence) and not isinstance(asked, str):
        return all(math.isclose(one, other, abs_tol=1e-3) for one, other in zip(asked, recorded, strict=True))
    return asked == recorded
