"""Augmentation of whole batches, wherever they are; every draw comes from the generator that is given, on the CPU."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def shift(images: Tensor, most: int, generator: Generator) -> Tensor:
    """Move each image by up to ``most`` pixels each way; the border is repeated.

    Args:
        images: (B, C, H, W) of any type.
        most: pixels.
        generator: source of the draws.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    count, _, height, width = images.shape
    down, right = torch.randint(-most, most + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + down).clamp(0, height - 1).to(images.device)
    columns = (torch.arange(width) + right).clamp(0, width - 1).to(images.device)
    each = torch.arange(count, device=images.device)
    moved = images[each[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def choose(count: int, share: float, generator: Generator) -> Tensor:
    """Draw (count,) bool, true with probability ``share``."""
    return torch.rand(count, generator=generator) < share


def shift_and_mirror(images: Tensor, most: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Move each image by up to ``most`` pixels each way, and mirror half of them.

    Returns:
        The images, and (B,) bool on the CPU, which of them are mirrored.
    """
    images = shift(images, most, generator)
    mirrored = choose(len(images), 0.5, generator)
    return replace_where(mirrored, images.flip(-1), images), mirrored


def replace_where(chosen: Tensor, replacement: Tensor, images: Tensor) -> Tensor:
    """Take the images of ``replacement`` where ``chosen``, (B,) bool, is true."""
    return torch.where(chosen.to(images.device)[:, None, None, None], replacement, images)


def join(images: Tensor, partners: Tensor, cuts: Tensor) -> Tensor:
    """Put the top of one image above the bottom of another.

    Args:
        images: (B, C, H, W), above the cut.
        partners: (B, C, H, W), below it.
        cuts: (B,) first row of the bottom.

    Returns:
        (B, C, H, W).
    """
    below = torch.arange(images.shape[2]) >= cuts[:, None]
    return torch.where(below.to(images.device)[:, None, :, None], partners, images)


def tone(images: Tensor, light: float, tint: float, generator: Generator) -> Tensor:
    """Vary brightness, contrast and white balance.

    Args:
        images: (B, 3, H, W) in 0..1.
        light: brightness and contrast change by a factor of up to 1 ± this.
        tint: each channel changes by a factor of up to 1 ± this.
        generator: source of the draws.

    Returns:
        (B, 3, H, W) in 0..1.
    """

    def factor(channels: int, most: float) -> Tensor:
        drawn = torch.rand(len(images), channels, 1, 1, generator=generator).to(images.device)
        return 1 + most * (2 * drawn - 1)

    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrasted = (images - mean) * factor(1, light) + mean
    return (contrasted * factor(1, light) * factor(3, tint)).clamp(0, 1)


def strange_colors(images: Tensor, generator: Generator) -> Tensor:
    """Take the colors from most images, but not what they show.

    The channels of each change places, three images in ten become grey, and then each channel is inverted with
    probability 0.15. Seven in a hundred come out as they were.

    Args:
        images: (B, 3, H, W) in 0..1.
        generator: source of the draws.

    Returns:
        (B, 3, H, W) in 0..1.
    """
    count = len(images)
    order = torch.stack([torch.randperm(3, generator=generator) for _ in range(count)]).to(images.device)
    images = images.gather(1, order[:, :, None, None].expand_as(images))
    grey = choose(count, 0.3, generator)
    images = replace_where(grey, images.mean(dim=1, keepdim=True).expand_as(images), images)
    inverted = (torch.rand(count, 3, generator=generator) < 0.15).to(images.device)
    return torch.where(inverted[:, :, None, None], 1 - images, images)


def erase(images: Tensor, share: float, generator: Generator, largest: float = 0.5) -> Tensor:
    """Cover a rectangle with the image's mean color (Zhong et al., arXiv 1708.04896).

    Args:
        images: (B, C, H, W) in 0..1.
        share: probability of a covered rectangle.
        generator: source of the draws.
        largest: longest side, as a share of the image's.

    Returns:
        (B, C, H, W).
    """
    count, _, height, width = images.shape
    inside = choose(count, share, generator)[:, None, None]
    for axis, length in ((1, height), (2, width)):
        extent = (0.1 + (largest - 0.1) * torch.rand(count, generator=generator)) * length
        start = torch.rand(count, generator=generator) * (length - extent)
        place = torch.arange(length)
        within = (place >= start[:, None]) & (place < (start + extent)[:, None])
        inside = inside & within.unsqueeze(3 - axis)
    return torch.where(inside.to(images.device)[:, None], images.mean(dim=(2, 3), keepdim=True), images)
