"""The captioner that composes a caption from attributes read by the embedded network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffreid_lightning.captioning.attribute_network import CONFIG, WEIGHTS, AttributeNetwork
from diffreid_lightning.captioning.color_captioner import garment_colors
from diffreid_lightning.captioning.reader_captioner import ReaderCaptioner, _outfit, write_caption
from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.errors import UserError

VIEWS = {
    "front": "seen from the front",
    "back": "seen from behind",
    "left": "seen from the left",
    "right": "seen from the right",
}


@pytest.fixture(scope="module")
def captioner() -> ReaderCaptioner:
    return ReaderCaptioner()


@pytest.fixture(scope="module")
def crops() -> list[tuple[dict[str, str], Image.Image]]:
    """Every tenth training image of both domains, with the columns that say what was rendered."""
    found = []
    for domain in ("campus", "station"):
        manifest = MiniPerson(domain).manifest()
        rows = [row for row in manifest.table.to_pylist() if row["split"] == "train"][::10]
        found += [(row, manifest.images.image(row["file_name"])) for row in rows]
    return found


def test_it_reads_more_than_colors_and_reads_them_better(
    captioner: ReaderCaptioner, crops: list[tuple[dict[str, str], Image.Image]]
) -> None:
    """The columns that no captioner sees say what is right."""
    right = Counter[str]()
    for row, image in crops:
        words = captioner.describe(image)
        right["lower"] += words["lower_color"] == row["lower_colour"]
        right["view"] += words["view"] == VIEWS[row["view"]]
        right["bag"] += (words["bag"] != "") == (row["bag"] != "none")
        right["by region"] += garment_colors(image)[1] == row["lower_colour"]
    shares = {name: count / len(crops) for name, count in right.items()}
    assert shares["lower"] > shares["by region"] + 0.05
    assert shares["view"] > 0.65
    assert shares["bag"] > 0.65


def test_a_caption_depends_on_its_image_alone(
    captioner: ReaderCaptioner, crops: list[tuple[dict[str, str], Image.Image]]
) -> None:
    images = [image for _, image in crops[:6]]
    together = captioner.captions(images)
    assert together == [captioner.captions([image])[0] for image in images]
    assert len(set(together)) > 1


def test_what_is_not_sure_is_left_out(crops: list[tuple[dict[str, str], Image.Image]]) -> None:
    image = crops[0][1]
    unsure = ReaderCaptioner(confidence=1.0).read(image)
    assert {name for name, word in unsure.items() if word} <= {"person", "upper", "lower"}
    colors = dict(zip(("upper_color", "lower_color"), garment_colors(image), strict=True))
    assert ReaderCaptioner(confidence=1.0).describe(image) == {**unsure, **colors}, "by region"
    assert all(ReaderCaptioner(confidence=0.0).read(image)[name] for name in ("view", "light", "upper_color"))


def test_settings_and_weights_are_part_of_the_key(tmp_path: Path) -> None:
    torch.manual_seed(0)
    AttributeNetwork({"person": ("man", "woman"), "upper": ("shirt",)}, (2, 2, 2, 2)).save(tmp_path / "own", {})
    own = ReaderCaptioner(str(tmp_path / "own"))
    assert own.captions([Image.new("RGB", (64, 128), "red")])[0].endswith("wearing a red shirt")
    keys = [own.cache_key, ReaderCaptioner().cache_key, ReaderCaptioner(confidence=0.9).cache_key]
    assert len({str(key) for key in keys}) == 3


@pytest.mark.parametrize("damage", ["no folder", "no weights", "other values", "no json", "cut weights"])
def test_a_damaged_reader_is_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "reader"
    if damage != "no folder":
        AttributeNetwork({"person": ("man", "woman")}, (2, 2, 2, 2)).save(folder, {})
    if damage == "no weights":
        (folder / WEIGHTS).unlink()
    elif damage == "other values":
        AttributeNetwork({"person": ("man",)}, (2, 2, 2, 2)).save(tmp_path / "other", {})
        (tmp_path / "other" / WEIGHTS).replace(folder / WEIGHTS)
    elif damage == "no json":
        (folder / CONFIG).write_text("[]", encoding="utf-8")
    elif damage == "cut weights":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match="no attribute reader"):
        ReaderCaptioner(str(folder))


def test_missing_words_leave_a_whole_sentence() -> None:
    assert write_caption({"person": "man"}) == "a man"
    assert write_caption({}) == "a person"
    assert write_caption({"upper": "shirt"}) == "a person wearing a shirt"
    assert write_caption({"person": "girl", "age": "young", "hair": "bald"}) == "a girl with a bald head"
    assert write_caption({"person": "woman", "bag": "backpack", "light": "at night"}) == (
        "a woman carrying a backpack, at night"
    )
    worn = {"person": "man", "age": "old", "upper_pattern": "striped", "upper": "shirt", "lower": "jeans"}
    assert write_caption(worn) == "an old man wearing a striped shirt, jeans"


def test_nobody_wears_trousers_below_a_dress(crops: list[tuple[dict[str, str], Image.Image]]) -> None:
    for _, image in crops[::4]:
        words = ReaderCaptioner(confidence=0.0).read(image)
        assert (words["upper"] == "dress") == (words["lower"] == "")
    assert _outfit({"upper": {"dress": 0.6, "shirt": 0.4}, "lower": {"": 0.1, "jeans": 0.9}}) == {
        "upper": "shirt",
        "lower": "jeans",
    }
