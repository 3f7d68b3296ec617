"""Describe the installed versions that a bug report needs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "lightning", "torch", "torchvision", "diffusers", "transformers", "peft", "timm", "torchmetrics", "jsonargparse",
    "omegaconf", "pyarrow", "wandb",
)  # fmt: skip


def describe_versions() -> str:
    """Return one line for this package and each library, then Python, the system and the accelerator."""
    lines = [f"{name} {number}" for name, number in installed_versions().items()]
    return "\n".join([*lines, platform.platform(), _accelerator()])


def installed_versions() -> dict[str, str]:
    """Return the versions of this package, of each library and of Python, by name."""
    found = {name: _version(name) for name in ("diffreid_lightning", *_PACKAGES)}
    return {**found, "python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _accelerator() -> str:
    import torch  # not above: the other commands that print text do without

    if torch.cuda.is_available():
        return f"CUDA {torch.version.cuda}: {torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return "MPS" if torch.backends.mps.is_available() else "no accelerator"
