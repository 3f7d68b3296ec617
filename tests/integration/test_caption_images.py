"""The captioning stage through the real command line: what it writes, what it survives."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from diffreid_lightning.captioning.caption_parser import read_caption
from diffreid_lightning.captioning.color_captioner import ColorCaptioner, describe_colors
from diffreid_lightning.captioning.consensus import find_consensus
from diffreid_lightning.captioning.datamodule import CaptioningDataModule
from diffreid_lightning.captioning.writer import CaptionWriter
from diffreid_lightning.cli import main
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.stage_datamodule import RemainingBatches
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.batch_store import BatchStore
from tests.fixtures.dataset_layouts import write_market1501

Command = Callable[..., int]

#: Colors that differ by how the light falls on them.
NEIGHBORS = {
    frozenset(pair)
    for pair in (
        ("navy", "blue"), ("navy", "black"), ("beige", "brown"), ("beige", "white"), ("beige", "grey"),
        ("grey", "white"), ("grey", "black"), ("red", "orange"), ("red", "pink"), ("teal", "green"), ("teal", "blue"),
        ("purple", "pink"), ("purple", "navy"), ("purple", "blue"), ("brown", "black"), ("brown", "orange"),
        ("brown", "red"), ("yellow", "beige"), ("orange", "yellow"), ("green", "black"),
    )
}  # fmt: skip
COLORS = "--model=ColorCaptioner"
SMALL = ("predict", "--config=stages/caption", COLORS, "--data.num_workers=0", "--data.batch_size=8")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """What the stage writes with the captioner that has no weights."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["diffreid_lightning"])
        words = ["predict", "--config", "stages/caption", COLORS, "--data.source=miniperson", "--data.num_workers=0"]
        assert main([*words, "--data.identities=60"]) == 0
    return Manifest.read(folder / "runs/tour/caption")


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """Three people; the second has images of every kind, the third has none that can be read."""
    root = write_market1501(tmp_path / "market1501", train_ids=(2, 7, 9))
    odd = sorted((root / "bounding_box_train").glob("0007*"))
    whole = odd[0].read_bytes()
    red = Image.new("RGB", (40, 100), "crimson")
    for path, data in zip(
        odd,
        [
            b"",
            whole[: len(whole) // 2],
            encoded(Image.new("RGB", (1, 1)), "PNG"),
            encoded(red.convert("L"), "JPEG"),
            encoded(red.convert("CMYK"), "JPEG"),
            encoded(red.convert("RGBA"), "PNG"),
        ],
        strict=True,
    ):
        path.write_bytes(data)
    for path in (root / "bounding_box_train").glob("0009*"):
        path.write_bytes(b"no image")
    return root


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def colors_said(row: dict[str, object], kinds: tuple[str, ...]) -> list[str]:
    """The colors that a caption gives a garment, in its own order."""
    text = str(row["caption"])
    (item,) = [item for item in read_caption(text).items if item.kind.common in kinds]
    return sorted(item.modifiers, key=text.index)


def test_only_training_images_are_captioned(captioned: Manifest) -> None:
    everything = open_dataset("miniperson").manifest()
    train = everything.filter(everything.numpy("split") == "train")
    chosen = set(train.identities()[1][:60])
    train = train.filter(np.isin(train.identities()[0], range(60)))
    assert set(captioned.identities()[1]) == chosen and captioned.table["file_name"].equals(train.table["file_name"])
    assert set(captioned.numpy("split")) == {"train"}
    assert captioned.parents == (everything.content_hash,)
    assert captioned.table["caption"].null_count == 0
    assert captioned.table["caption_problem"].null_count == len(captioned)
    assert captioned.images.image(captioned.table["file_name"][0].as_py()).mode == "RGB"


def test_an_identity_has_one_description(captioned: Manifest) -> None:
    table = captioned.table
    pairs = table.group_by(["source", "partition", "pid", "description"]).aggregate([])
    assert len(pairs) == len(captioned.identities()[1]) == 60
    rows = table.filter(pc.equal(table["pid"], table["pid"][0]))
    expected = find_consensus(rows["caption"].to_pylist())
    assert rows["description"][0].as_py() == expected.description
    assert rows["circumstances"].to_pylist() == expected.circumstances


def test_colors_are_those_that_were_rendered(captioned: Manifest) -> None:
    """The columns that the captioner does not read say what colors the garments have."""
    exact, near = Counter[str](), Counter[str]()
    rows = captioned.table.to_pylist()
    for row in rows:
        for part, kinds in (("upper", ("top",)), ("lower", ("trousers", "shorts"))):
            said, truth = colors_said(row, kinds)[0], row[f"{part}_colour"]
            exact[part] += said == truth
            near[part] += said == truth or frozenset((said, truth)) in NEIGHBORS
    shares = {part: (exact[part] / len(rows), near[part] / len(rows)) for part in exact}
    assert shares["upper"][0] >= 0.6 and shares["lower"][0] >= 0.65, shares
    assert shares["upper"][1] >= 0.78 and shares["lower"][1] >= 0.8, shares


def test_the_captioner_reads_nothing_but_pixels(captioned: Manifest) -> None:
    for row in captioned.table.take(list(range(0, len(captioned), 97))).to_pylist():
        picture = Image.fromarray(np.asarray(captioned.images.image(row["file_name"])))
        assert describe_colors(picture) == row["caption"]


@pytest.mark.parametrize("size", [(4, 8), (5, 200), (300, 9), (64, 128), (700, 1400)])
@pytest.mark.parametrize("level", [0, 3, 128, 255])
def test_any_size_and_any_light_has_a_caption(size: tuple[int, int], level: int) -> None:
    caption = describe_colors(Image.new("RGB", size, (level, level, level)))
    assert caption.startswith("a person wearing a ")
    assert ("in the dark" in caption) == (level < 50)
    assert ("in bright light" in caption) == (level > 200)


def test_the_person_is_described_and_not_the_wall() -> None:
    pixels = np.full((120, 60, 3), (90, 110, 130), np.uint8)
    pixels[12:60, 22:38] = (190, 30, 40)
    pixels[60:112, 24:36] = (40, 70, 170)
    assert describe_colors(Image.fromarray(pixels)) == "a person wearing a red top and blue trousers"
    pixels[84:104, 24:36] = (215, 170, 145)
    assert describe_colors(Image.fromarray(pixels)) == "a person wearing a red top and blue shorts"


def test_a_hundred_images_a_second() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 64, 3), np.uint8))
    describe_colors(image)
    began = time.process_time()
    for _ in range(30):
        describe_colors(image)
    assert time.process_time() - began < 0.3


def test_unreadable_images_leave_a_reason_and_stop_nothing(
    market: Path, command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert command(*SMALL, f"--data.source={market}") == 0
    assert "9 of 18 images have no caption" in caplog.text
    rows = Manifest.read(tmp_path / "runs/tour/caption").table.to_pylist()
    by_person = {pid: [row for row in rows if row["pid"] == pid] for pid in (2, 7, 9)}
    for row in rows:
        assert (row["caption"] is None) == (row["caption_problem"] is not None)
        assert str(tmp_path) not in str(row["caption_problem"])
    empty, cut, dot, grey, cmyk, rgba = sorted(by_person[7], key=lambda row: row["file_name"])
    assert "0 bytes" in empty["caption_problem"]
    assert "truncated" in cut["caption_problem"].lower()
    assert "1x1 pixels" in dot["caption_problem"]
    assert "grey top" in grey["caption"] and "red top" in cmyk["caption"] and "red top" in rgba["caption"]
    assert {row["description"] for row in by_person[7]} == {"a person wearing a red top and red trousers"}
    assert {row["description"] for row in by_person[9]} == {""}
    assert all(row["circumstances"] == "" for row in by_person[9])


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(
    market: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*SMALL, f"--data.source={market}", "--data.batch_size=4")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flag = "--trainer.callbacks.init_args.folder={}".format
    assert command(*words, flag(whole)) == 0
    seen: list[int] = []
    original = ColorCaptioner.predict_step

    def failing(self: ColorCaptioner, batch: object, batch_idx: int) -> object:
        if len(seen) == 2:
            raise OSError(28, "No space left on device")
        seen.append(batch.number)  # type: ignore[attr-defined]
        return original(self, batch, batch_idx)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ColorCaptioner, "predict_step", failing)
        assert command(*words, flag(cut)) == 1
    assert not (cut / "metadata.parquet").exists()
    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            ColorCaptioner,
            "predict_step",
            lambda self, batch, batch_idx: done.append(batch.number) or original(self, batch, batch_idx),
        )
        assert command(*words, flag(cut)) == 0
    assert sorted(seen + done) == list(range(5)), "nothing is done twice, nothing left out"
    assert (cut / "metadata.parquet").read_bytes() == (whole / "metadata.parquet").read_bytes()
    assert not (cut / ".parts").exists()


def test_two_processes_that_share_the_batches_write_the_same_bytes(
    market: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    flag = "--trainer.callbacks.init_args.folder={}".format
    assert command(*SMALL, f"--data.source={market}", flag(alone)) == 0
    data = CaptioningDataModule(str(market), batch_size=8, num_workers=0)
    captioner = ColorCaptioner()
    parts = BatchStore(shared, {**data.cache_key, **captioner.cache_key, **CaptionWriter(str(shared)).cache_key})
    parts.begin()
    shares = [list(RemainingBatches(range(data.batches), rank, 2)) for rank in (1, 0)]
    assert sorted(number for share in shares for number in share) == list(range(data.batches)) and all(shares)
    for share in shares:
        for number in share:
            batch = data.load(number, range(number * 8, min((number + 1) * 8, data.rows)))
            parts.put(*captioner.predict_step(batch, 0))
    assert command(*SMALL, f"--data.source={market}", flag(shared)) == 2  # another command is at work there
    assert "Another command is at work" in capsys.readouterr().err
    parts.release()
    assert command(*SMALL, f"--data.source={market}", flag(shared)) == 0  # finds all batches done, and merges them
    assert not (shared / ".lock").exists()
    assert (shared / "metadata.parquet").read_bytes() == (alone / "metadata.parquet").read_bytes()
    before = (shared / "metadata.parquet").stat().st_mtime_ns
    assert command(*SMALL, f"--data.source={market}", flag(shared)) == 0
    assert (shared / "metadata.parquet").stat().st_mtime_ns == before, "finished work is not done again"


def test_batches_make_no_difference(market: Path) -> None:
    def captions(batch_size: int) -> pa.Table:
        data = CaptioningDataModule(str(market), batch_size=batch_size, num_workers=0)
        loads = (range(n * batch_size, min((n + 1) * batch_size, data.rows)) for n in range(data.batches))
        module = ColorCaptioner()
        return pa.concat_tables([module.predict_step(data.load(n, rows), n).rows for n, rows in enumerate(loads)])

    assert captions(1).to_pylist() == captions(7).to_pylist()


def test_a_part_of_the_identities_and_those_of_val(command: Command, tmp_path: Path) -> None:
    assert command(*SMALL, "--data.identities=2", "--data.with_val=true") == 0
    written = Manifest.read(tmp_path / "runs/tour/caption")
    everything = open_dataset("miniperson").manifest()
    for split, people in (("train", 2), ("val", 40)):
        rows = written.filter(written.numpy("split") == split)
        pids = np.unique(rows.numpy("pid"))
        assert len(pids) == people
        mine = everything.filter((everything.numpy("split") == split) & np.isin(everything.numpy("pid"), pids))
        assert rows.table["file_name"].equals(mine.filter(mine.numpy("role") == "identity").table["file_name"])
    assert set(written.numpy("split")) == {"train", "val"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.identities=0"], ["data.identities must be at least 1"]),
        (["--data.identities=9999"], ["data.identities is 9999", "from 1 to"]),
        (["--data.batch_size=0"], ["data.batch_size must be at least 1"]),
        (["--data.batch_size=-3"], ["data.batch_size must be at least 1"]),
        (["--trainer.callbacks.init_args.agreement=2"], ["agreement"]),
        (["--data.source=nowhere"], ["nowhere"]),
        (["--model=ColorCaptionr"], ["did you mean 'ColorCaptioner'"]),
    ],
)
def test_mistakes_are_named(
    words: list[str], expected: list[str], command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(*SMALL, *words) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    for text in expected:
        assert text in error


def test_a_folder_without_training_images_is_refused(
    market: Path, command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    query = market / "query"
    whole = open_dataset(str(market)).manifest()
    whole.filter(whole.numpy("split") == "query").write(query)
    assert command(*SMALL, f"--data.source={query}") == 2
    assert "no image to caption" in capfd.readouterr().err
