"""Image transforms: the augmented training view and the evaluation view, as tensors."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffreid_lightning.errors import check_pair, check_range

# ImageNet's mean color, the usual fill of erased regions (Zhong et al., arXiv 1708.04896).
_FILL = (124.0, 116.0, 104.0)


def evaluation_view(image: Image.Image | Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to ``size`` (height, width) in pixels; returns (3, H, W) uint8 in 0..255. A tensor is such a view."""
    if isinstance(image, Tensor):
        return image
    resized = image if image.size == (size[1], size[0]) else image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return F.pil_to_tensor(resized)


class TrainView:
    """Training view of Bag of Tricks (Luo et al., arXiv 1903.07071): resize, flip, pad and crop, color, erase.

    Args:
        flip: probability of a horizontal flip.
        pad: pixels added on each side before a random crop back to size; 0 for none.
        color: strength s of brightness, contrast and saturation jitter: factors of max(0, 1 - s) to 1 + s; 0 for none.
        color_probability: probability of color jitter.
        erasing: probability of random erasing.
        erasing_area: smallest and largest erased share of the image.
    """

    def __init__(
        self,
        flip: float = 0.5,
        pad: int = 10,
        color: float = 0.0,
        color_probability: float = 0.5,
        erasing: float = 0.5,
        erasing_area: tuple[float, float] = (0.02, 0.4),
    ) -> None:
        for name, chance in (("flip", flip), ("color_probability", color_probability), ("erasing", erasing)):
            check_range(f"TrainView.{name}", chance, 0, 1)
        check_range("TrainView.pad", pad, 0, 1000)
        check_range("TrainView.color", color, 0, 10)
        check_pair("TrainView.erasing_area", erasing_area, 0, 1)
        self.flip = flip
        self.pad = pad
        self.erasing = erasing
        jitter = v2.ColorJitter(brightness=color, contrast=color, saturation=color)
        self._color = v2.RandomApply([jitter], color_probability) if color > 0 else None
        self._erase = v2.RandomErasing(scale=tuple(erasing_area), ratio=(0.3, 1 / 0.3), value=list(_FILL))

    def __call__(self, image: Image.Image | Tensor, size: tuple[int, int], seed: int) -> Tensor:
        """Draw a view.

        Args:
            image: RGB image of any size, or its evaluation view, which stays as it is.
            size: height and width of the view in pixels.
            seed: the view depends only on it and on the image.

        Returns:
            (3, H, W) uint8 in 0..255.
        """
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which also seeds the GPU generators, and fork_rng does not restore those.
            torch.random.default_generator.manual_seed(seed)
            # The functions behind torchvision's transforms, which take half of the time at 64 × 32 pixels.
            view = evaluation_view(image, size)
            if torch.rand(1) < self.flip:
                view = F.horizontal_flip_image(view)
            if self.pad > 0:
                view = torch.nn.functional.pad(view, [self.pad] * 4)
                top = int(torch.randint(2 * self.pad + 1, ()))
                left = int(torch.randint(2 * self.pad + 1, ()))
                view = view[:, top : top + size[0], left : left + size[1]]
            if self._color is not None:
                view = self._color(view)
            if torch.rand(1) < self.erasing:
                view = self._erase.transform(view, self._erase.make_params([view]))
            return view
