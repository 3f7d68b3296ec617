from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from diffreid_lightning.errors import UserError
from experiments.instruments import attribute_labels, attribute_reader
from experiments.instruments.attribute_labels import VALUES
from experiments.instruments.corpus_parts import holds_out, parts_of_world
from experiments.instruments.pictures import read_pictures

WORDS = {
    "upper_colour": ["red", "navy"],
    "lower_colour": ["black", "red"],
    "view": ["left", "back"],
    "sex": ["male"] * 2,
}


def test_words_become_their_numbers():
    numbered = attribute_labels.encode(WORDS)
    assert numbered.shape == (2, 4)
    for column, (name, values) in enumerate(VALUES.items()):
        assert [values[number] for number in numbered[:, column]] == WORDS[name]


def test_a_strange_word_is_named():
    with pytest.raises(UserError, match="mauve"):
        attribute_labels.encode({**WORDS, "upper_colour": ["red", "mauve"]})


def test_a_training_view_is_named_after_what_it_shows():
    """Pictures that hold their own labels: brightness grows to the right, each half has its own blue."""
    count = 400
    rng = np.random.default_rng(0)
    targets = torch.from_numpy(np.stack([rng.integers(14, size=count), rng.integers(14, size=count), np.full(count, 2),
                                         np.zeros(count, int)], axis=1))  # fmt: skip
    pictures = torch.zeros(count, 3, 128, 64, dtype=torch.uint8)
    pictures[:, 0] = torch.linspace(20, 220, 64).byte()
    pictures[:, 2, :61] = (10 + 15 * targets[:, 0]).byte()[:, None, None]
    pictures[:, 2, 61:] = (10 + 15 * targets[:, 1]).byte()[:, None, None]
    images, named = attribute_reader.training_view(pictures, targets, torch.Generator().manual_seed(3))
    assert images.shape == (count, 3, 128, 64)
    whole = named[:, 2] != -100
    assert 0.6 < whole.float().mean() < 0.8
    assert torch.equal(named[:, 3] != -100, whole)
    rises = images[:, 0, :, -10:].mean(dim=(1, 2)) > images[:, 0, :, :10].mean(dim=(1, 2))
    assert torch.equal(rises[whole], named[whole, 2] == 2)
    assert ((named[whole, 2] == 2) | (named[whole, 2] == 3)).all()
    # Light varies, but the order of the blues survives it.
    for column, rows in ((0, slice(10, 40)), (1, slice(90, 120))):
        blue = images[:, 2, rows].mean(dim=(1, 2))
        assert np.corrcoef(blue.numpy(), named[:, column].numpy())[0, 1] > 0.9
    assert (named[~whole, 1] != targets[~whole, 1]).any()


def test_rare_colors_are_drawn_more_often():
    targets = torch.zeros(101, 4, dtype=torch.int64)
    targets[100, 1] = 5
    weights = attribute_reader.row_weights(targets)
    assert weights[100] > weights[0]
    assert weights[100] / weights[0] <= 10 + 1e-9
    assert np.ptp(weights[:100]) == 0


def test_agreement_counts_each_attribute_and_all():
    read = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    found = attribute_reader.agreement(read, torch.ones(4, 4, dtype=torch.int64))
    assert {name: share.right for name, share in found.items()} == {
        "upper_colour": 3, "lower_colour": 4, "view": 4, "sex": 3, "all four": 2,
    }  # fmt: skip


def test_identities_are_held_out_whole():
    pids = np.random.default_rng(0).integers(40, size=300)
    mask = holds_out(pids, 0.25, seed=1)
    assert len(np.unique(pids[mask])) == 10
    assert not set(pids[mask]) & set(pids[~mask])


def measured(world, work):
    trained = attribute_reader.train_classifier(world, work, epochs=1)
    read = functools.partial(attribute_reader.read_attributes, trained.network)
    return trained, attribute_reader.measured_on_renders(read, parts_of_world(world))


def test_the_classifier_is_measured_on_people_it_has_not_seen(world, tmp_path):
    trained, found = measured(world, tmp_path)
    occluded = np.asarray(world.numpy("occluded"))
    val = world.numpy("split") == "val"
    assert trained.occluded == occluded.sum() > 0
    assert found["val"]["sex"].count == (val & ~occluded).sum()
    assert trained.training_images + found["held_out"]["sex"].count == (~val & ~occluded).sum()
    before = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    _, again = measured(world, tmp_path)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == before
    assert again == found


def test_a_garment_of_two_colors_has_no_color_to_read(world):
    patterns = (["plain", "stripes"] * len(world))[: len(world)]
    rows = world.with_columns({"upper": "shirt", "upper_pattern": patterns, "lower_pattern": "plain"})
    numbered = attribute_labels.encode_rows(rows)
    assert (numbered[1::2, 0] == -100).all() and (numbered[::2, 0] >= 0).all() and (numbered[:, 1] >= 0).all()
    found = attribute_reader.agreement(numbered.clamp(min=0), numbered)
    assert found["upper_colour"].count == len(range(0, len(rows), 2))
    assert found["all four"].count == found["upper_colour"].count
    assert attribute_reader.row_weights(numbered).min() > 0


def test_the_classifier_is_measured_on_plain_garments(world, tmp_path, monkeypatch):
    monkeypatch.setattr(attribute_reader, "train_once", lambda network, *_: network.eval() and 0.0)
    patterns = (["plain", "print", "side_stripe", "stripes"] * len(world))[: len(world)]
    found = measured(world.with_columns({"upper_pattern": patterns}), tmp_path)[1]["val"]
    counted = (world.numpy("split") == "val") & ~np.asarray(world.numpy("occluded"))
    assert found["lower_colour"].count == counted.sum()
    assert found["upper_colour"].count == (counted & (np.array(patterns) == "plain")).sum()


def test_what_a_coat_covers_has_no_color_to_read(world):
    lower = (["shorts", "jeans", "long_skirt", "skirt"] * len(world))[: len(world)]
    plain = {"upper_pattern": "plain", "lower_pattern": "plain", "lower": lower}
    under_coat = attribute_labels.encode_rows(world.with_columns({**plain, "upper": "coat"}))
    under_shirt = attribute_labels.encode_rows(world.with_columns({**plain, "upper": "shirt"}))
    covered = torch.tensor([word != "jeans" for word in lower])
    assert (under_coat[covered, 1] == -100).all() and (under_coat[~covered, 1] >= 0).all()
    assert (under_shirt >= 0).all() and (under_coat[:, 0] >= 0).all()


def test_a_picture_and_its_mirror_image_are_read_alike(world):
    pictures = read_pictures(world)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = attribute_reader.AttributeNet().eval()
    read, mirrored = (attribute_reader.read_attributes(network, each) for each in (pictures, pictures.flip(-1)))
    view = list(VALUES).index("view")
    exchanged = {"left": "right", "right": "left"}
    names = [VALUES["view"][number] for number in read[:, view].tolist()]
    assert [VALUES["view"][n] for n in mirrored[:, view].tolist()] == [exchanged.get(n, n) for n in names]
    read[:, view] = mirrored[:, view] = 0
    assert torch.equal(read, mirrored)
