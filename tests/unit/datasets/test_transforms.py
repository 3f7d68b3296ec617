"""Training views beside torchvision's own transforms."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from diffreid_lightning.datasets.transforms import TrainView

SIZE = (32, 16)


@pytest.mark.parametrize("color", [0.0, 0.3])
def test_a_training_view_is_that_of_torchvisions_transforms(color: float) -> None:
    jitter = v2.ColorJitter(brightness=color, contrast=color, saturation=color)
    reference = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.Pad(4),
            _CornerCrop(4),
            v2.RandomApply([jitter], 0.5) if color else v2.Identity(),
            v2.RandomErasing(0.5, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=[124.0, 116.0, 104.0]),
        ]
    )
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    view = TrainView(pad=4, color=color)
    for seed in range(100):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = reference(image)
        assert torch.equal(view(image, SIZE, seed), expected), seed


class _CornerCrop(v2.Transform):
    """Crop to the size before padding, at a place drawn with two numbers."""

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = pad

    def transform(self, inpt: torch.Tensor, params: dict[str, object]) -> torch.Tensor:
        top, left = (int(torch.randint(2 * self.pad + 1, ())) for _ in range(2))
        return v2.functional.crop(inpt, top, left, *SIZE)
