from __future__ import annotations

import numpy as np
import torch

from experiments.instruments import figure_reader
from experiments.instruments.attribute_labels import VALUES
from experiments.instruments.pictures import read_pictures, to_floats
from tools.reader import augment


def test_strange_colors_keep_what_is_shown_and_lose_the_colors():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 3, 8, 4, generator=generator)
    strange = augment.strange_colors(images, generator)
    assert strange.shape == images.shape
    assert strange.min() >= 0 and strange.max() <= 1
    made_of = {"own": 0, "grey": 0, "inverse": 0}
    for image, other in zip(images, strange, strict=True):
        grey = image.mean(dim=0)
        for place, channel in enumerate(other):
            upright = any(torch.allclose(channel, each) for each in (*image, grey))
            assert upright or any(torch.allclose(channel, 1 - each) for each in (*image, grey))
            made_of["own"] += torch.equal(channel, image[place])
            made_of["grey"] += torch.allclose(channel, grey) or torch.allclose(channel, 1 - grey)
            made_of["inverse"] += not upright
    # Of 600 channels: in their place one third of what is neither grey nor inverted; 0.3; 0.15.
    assert 80 < made_of["own"] < 160
    assert 120 < made_of["grey"] < 240
    assert 60 < made_of["inverse"] < 120


def test_a_training_view_renames_left_and_right_where_it_is_mirrored(world):
    values = figure_reader.values_of(world)
    place = list(values).index("view")
    left, right = (values["view"].index(view) for view in ("left", "right"))
    targets = torch.zeros(300, len(values), dtype=torch.int64)
    targets[:, place] = left
    pictures = torch.zeros(300, 3, 128, 64, dtype=torch.uint8)
    pictures[..., 40:] = 200  # bright on the right
    images, named = figure_reader.training_view(values, pictures, targets, torch.Generator().manual_seed(1))
    contrast = images[..., -8:].mean(dim=(1, 2, 3)) - images[..., :8].mean(dim=(1, 2, 3))
    views = named[:, place]
    assert set(views.tolist()) == {left, right}
    assert targets[:, place].eq(left).all()  # the given ones are not changed
    # Inverting changes the sign of a channel; on most images it does not happen to two of three.
    assert ((contrast > 0) == (views == left)).float().mean() > 0.85
    assert named[:, :place].eq(0).all()


def test_the_sex_is_read_in_the_numbers_of_the_other_classifier(world, tmp_path):
    reader = figure_reader.train_figure_reader(world, tmp_path, epochs=1)
    pictures = read_pictures(world)
    read = reader.sex(pictures)
    assert read.shape == (len(world),)
    # By the first columns of its answer, which are the sex's, of an image and its mirror image.
    reader.network.eval()
    with torch.no_grad():
        both = sum(reader.network(to_floats(each))[:, :2] for each in (pictures, pictures.flip(-1)))
    assert next(iter(reader.network.values)) == "sex"
    assert torch.equal(read, both.argmax(dim=1))
    assert reader.network.values["sex"] == VALUES["sex"]
    assert len(list(tmp_path.iterdir())) == 1
    again = figure_reader.train_figure_reader(world, tmp_path, epochs=1)
    assert torch.equal(again.sex(pictures), read)
    assert again.seconds == np.float64(f"{reader.seconds:.1f}")


class Bright(torch.nn.Module):
    """Says the second sex of bright pictures, and the first value of all else."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, images):
        scores = torch.zeros(len(images), sum(map(len, self.values.values())))
        scores[:, 1] = images.mean(dim=(1, 2, 3)) - 0.5
        return scores


def test_the_sex_is_the_first_thing_that_is_read(world):
    reader = figure_reader.FigureReader(Bright(figure_reader.values_of(world)), epochs=0, seconds=0.0, parameters=0)
    pictures = torch.tensor([10, 240, 240, 30], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 128, 64)
    assert reader.sex(pictures).tolist() == [0, 1, 1, 0]
