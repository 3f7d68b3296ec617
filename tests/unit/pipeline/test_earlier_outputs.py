"""What a chain replaces is kept, and shows what it was made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.pipeline.earlier_outputs import Aside
from diffreid_lightning.pipeline.fingerprints import Record, begun_file, record_file
from tests.fixtures.dataset_layouts import write_market1501


class Finished:
    """Writes what stages leave: a folder, a manifest, a record."""

    stages = ("caption", "generate", "score", "damaged")

    def __init__(self, root: Path, rows: Manifest) -> None:
        self.root = root
        self.rows = rows
        self.image = rows.table["file_name"][0].as_py()
        self.pixels = rows.images.read(self.image)

    def stage(self, name: str, output: str | None, images: Path, **ancestors: str) -> None:
        Manifest(self.rows.table.slice(0, 1), images).write(self.root / name)
        if output is not None:
            Record("key", output, 1.0, ancestors).write(record_file(self.root, name))

    def generate(self, output: str | None, ending: bytes) -> None:
        """As the writer of generated images does: their root is the stage's folder. What follows the pixels tells."""
        inside = self.root / "generate"
        (inside / self.image).parent.mkdir(parents=True, exist_ok=True)
        (inside / self.image).write_bytes(self.pixels + ending)
        self.stage("generate", output, inside)

    def put(self, *names: str) -> list[Path]:
        """What one run puts aside."""
        aside = Aside(self.root, self.stages)
        return [aside.put(name) for name in names]

    def shown(self, folder: Path) -> bytes:
        """What a manifest says that its image is."""
        return Manifest.read(folder).images.read(self.image).removeprefix(self.pixels)


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    data = write_market1501(tmp_path / "data", train_ids=range(2, 5))
    return Finished(tmp_path / "out", open_dataset(data).manifest())


def test_what_is_put_aside_still_finds_its_images(finished: Finished, tmp_path: Path) -> None:
    finished.stage("caption", "C", finished.rows.root)
    finished.generate("A", b"a")
    finished.stage("score", "SA", finished.root / "generate", generate="A")
    (finished.root / "damaged").mkdir()
    (finished.root / "damaged" / FILE_NAME).write_bytes(b"no Parquet")
    aside = Aside(tmp_path / "data" / ".." / "out", finished.stages)
    caption, generate = aside.put("caption"), aside.put("generate")
    finished.generate("B", b"b")  # other pixels under the same names
    score, damaged = aside.put("score"), aside.put("damaged")
    assert score == finished.root / "previous" / "001" / "score"
    assert finished.shown(caption) == b""
    assert finished.shown(generate) == finished.shown(score) == b"a"
    assert (damaged / FILE_NAME).read_bytes() == b"no Parquet"

    # Another scorer: the images of this configuration stay in their place until a later run takes it.
    finished.stage("score", "SB", finished.root / "generate", generate="B")
    [second] = finished.put("score")
    assert second == finished.root / "previous" / "002" / "score"
    assert finished.put("generate")[0].parent.name == "003"
    finished.generate("C", b"c")
    assert finished.shown(second) == b"b"

    # A run that failed between the two, and another configuration since.
    finished.stage("score", "SA", finished.root / "generate", generate="A")
    [third] = finished.put("score")
    assert finished.shown(third) == finished.shown(score) == b"a"

    # All of it somewhere else.
    finished.root.rename(tmp_path / "moved")
    moved = [tmp_path / "moved" / folder.relative_to(finished.root) for folder in (generate, score, second, third)]
    assert [finished.shown(folder) for folder in moved] == [b"a", b"a", b"b", b"a"]
    assert not list((tmp_path / "moved" / "previous").glob("*/*.mended")), "nothing is left of the mending"


def test_images_that_are_gone_are_not_taken_for_others(finished: Finished) -> None:
    finished.generate("A", b"a")
    [first] = finished.put("generate")
    shutil.rmtree(first)
    finished.generate("B", b"b")
    finished.stage("score", "SA", finished.root / "generate", generate="A")
    [score] = finished.put("score")
    with pytest.raises(UserError, match="images_of_generate"):
        finished.shown(score)

    # Nothing tells of what it was made, and what it was made of was just put aside; or was not.
    finished.stage("score", None, finished.root / "generate")
    record_file(finished.root, "score").unlink()
    generate, score = finished.put("generate", "score")
    assert finished.shown(generate) == finished.shown(score) == b"b"
    finished.generate("C", b"c")
    finished.stage("score", None, finished.root / "generate")
    [score] = finished.put("score")
    with pytest.raises(UserError, match="images_of_generate"):
        finished.shown(score)

    # It was stopped after its manifest, before its record.
    finished.stage("score", None, finished.root / "generate")
    Record("key", "", 0.0, {"generate": "C"}).write(begun_file(finished.root, "score"))
    assert finished.shown(*finished.put("score")) == b"c"

    # An image is missing from what it was made of.
    (finished.root / "generate" / finished.image).unlink()
    finished.stage("score", "S", finished.root / "generate", generate="C")
    with pytest.raises(UserError, match="images_of_generate"):
        finished.shown(*finished.put("score"))


@pytest.mark.parametrize("moved", [False, True])
def test_a_kill_while_putting_aside_is_made_good(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    finished.stage("caption", "C", finished.rows.root)
    finished.generate("A", b"a")
    finished.stage("score", "S", finished.root / "generate", generate="A")
    names = ("caption", "score", "generate")
    before = {name: (finished.root / name / FILE_NAME).read_bytes() for name in names}
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.parent == finished.root and not moved:
            raise KeyboardInterrupt
        path = rename(path, target)
        raise KeyboardInterrupt

    kept = {}
    for name in names:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Path, "rename", killed)
            finished.put(name)
        if not moved:
            assert (finished.root / name / FILE_NAME).read_bytes() == before[name], (
                "a chain that goes back finds it as it was"
            )
            [kept[name]] = finished.put(name)
        else:
            Aside(finished.root, finished.stages)  # the next run
            [kept[name]] = finished.root.glob(f"previous/*/{name}")
    finished.generate("B", b"b")
    assert [finished.shown(kept[name]) for name in names] == [b"", b"a", b"a"]


def test_a_disk_that_refuses_to_put_aside_is_told_of(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    finished.generate("A", b"a")
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunError, match="cannot be put aside"):
        finished.put("generate")
    assert finished.shown(finished.root / "generate") == b"a"
