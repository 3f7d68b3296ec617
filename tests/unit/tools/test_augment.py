from __future__ import annotations

import torch

from tools.reader import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_shift_moves_whole_images_and_repeats_the_border():
    rows = torch.arange(12).view(1, 1, 12, 1).expand(40, 1, 12, 5)
    columns = torch.arange(5).view(1, 1, 1, 5).expand(40, 1, 12, 5)
    moved = augment.shift(torch.cat([rows, columns], dim=1), 2, generator())
    offsets = set()
    for image in moved:
        down, right = int(image[0, 6, 2]) - 6, int(image[1, 6, 2]) - 2
        offsets.add((down, right))
        expected_rows = (torch.arange(12) + down).clamp(0, 11).view(12, 1).expand(12, 5)
        expected_columns = (torch.arange(5) + right).clamp(0, 4).view(1, 5).expand(12, 5)
        assert torch.equal(image, torch.stack([expected_rows, expected_columns]))
    assert len(offsets) > 10
    assert max(abs(step) for offset in offsets for step in offset) == 2


def test_join_takes_the_top_of_one_and_the_bottom_of_the_other():
    joined = augment.join(torch.zeros(3, 1, 4, 2), torch.ones(3, 1, 4, 2), torch.tensor([0, 3, 4]))
    assert joined[:, 0, :, 0].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_tone_is_nothing_at_strength_nought_and_stays_in_range():
    images = torch.rand(16, 3, 8, 4, generator=generator())
    torch.testing.assert_close(augment.tone(images, 0.0, 0.0, generator()), images)
    varied = augment.tone(images, 0.5, 0.2, generator())
    assert varied.min() >= 0
    assert varied.max() <= 1
    assert ((varied - images).abs().mean(dim=(1, 2, 3)) > 0).all()


def test_erase_covers_one_rectangle_with_the_images_mean():
    images = torch.rand(30, 3, 20, 10, generator=generator())
    assert torch.equal(augment.erase(images, 0.0, generator()), images)
    erased = augment.erase(images, 1.0, generator(), largest=0.5)
    for image, covered in zip(images, erased, strict=True):
        changed = (covered != image).any(dim=0)
        rows, columns = changed.any(dim=1).nonzero().flatten(), changed.any(dim=0).nonzero().flatten()
        assert 2 <= len(rows) <= 10
        assert 1 <= len(columns) <= 5
        assert changed.sum() == len(rows) * len(columns)
        torch.testing.assert_close(covered[:, changed], image.mean(dim=(1, 2))[:, None].expand(-1, int(changed.sum())))
