"""From scored images to Diff-Person through the command line, and what opens it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from matplotlib.axes import Axes
from PIL import Image

from diffreid_lightning.cli import main
from diffreid_lightning.datasets import DiffPerson, ManifestDataset, Market1501, detect, open_dataset
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.dataset_card import Card, write_card
from diffreid_lightning.filtering.rules import FixedThreshold, Selection
from diffreid_lightning.filtering.scored_manifest import ScoredFolder
from diffreid_lightning.filtering.selection_plots import draw_rejected, save_histogram
from diffreid_lightning.filtering.statistics import summarize
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.reid.datamodule import ReIDDataModule
from tests.fixtures.dataset_layouts import zip_folder
from tests.fixtures.wandb_records import read_run, runs_under
from tests.unit.filtering.conftest import CAMERA, PEOPLE, UNKNOWN

pytestmark = pytest.mark.filterwarnings("ignore:.*published counts")

#: Copies of real images go, then so much that something is kept and something is not, whatever the tiny scorer learnt.
RULES = (
    "--rules=[{class_path: NearDuplicates, init_args: {real: 0.0001, generated: null}},"
    " {class_path: ThresholdWithFloorAndCap, init_args: {threshold: 1.5, floor: 3}}]",
)


def select(scored: Path, out: Path, *words: str) -> int:
    return main(["select", f"--scored={scored}", f"--out={out}", "--tracker=null", *words])


@pytest.fixture(scope="module")
def selected(scored: Path, offline: Path) -> Path:
    """What select wrote."""
    assert select(scored, offline / "selected", *RULES) == 0
    return offline / "selected"


def test_kept_and_rejected_rows_are_all_the_rows(selected: Path, scored: Path) -> None:
    everything = Manifest.read(scored)
    kept, rejected = Manifest.read(selected / "diff_person"), Manifest.read(selected / "rejected")
    names = kept.numpy("file_name").tolist() + rejected.numpy("file_name").tolist()
    assert sorted(names) == sorted(everything.numpy("file_name").tolist())
    assert kept.numpy("kept").all() and not rejected.numpy("kept").any()
    assert kept.parents == rejected.parents == (everything.content_hash,)
    assert kept.root == selected / "diff_person" and rejected.root == everything.root
    reasons = set(rejected.numpy("reason").tolist())
    assert {"the scorer does not know this identity", "nearer than 0.0001 to a real image"} <= reasons
    assert any(reason.startswith("unreadable image") for reason in reasons)
    assert np.bincount(kept.numpy("pid"), minlength=6)[list(PEOPLE)].tolist() == [3] * len(PEOPLE)


def test_kept_images_are_hard_links(selected: Path, scored: Path) -> None:
    kept, source = Manifest.read(selected / "diff_person"), Manifest.read(scored)
    for name in kept.numpy("file_name"):
        assert (kept.root / name).samefile(source.root / name)


def test_the_report(selected: Path) -> None:
    report = selected / "report"
    for picture in ("histogram", "kept", "rejected"):
        with Image.open(report / f"{picture}.png") as image:
            assert image.width > 100
    text = (report / "summary.txt").read_text()
    assert f"kept {3 * len(PEOPLE)} of 30 images (40.0 %)" in text and "identities lost: 1" in text
    with (report / "identities.csv").open() as file:
        rows = {int(row["pid"]): row for row in csv.DictReader(file)}
    assert rows[UNKNOWN]["why_lost"] == "the scorer does not know this identity" and rows[2]["kept"] == "3"
    with (report / "coverage.csv").open() as file:
        coverage = {row["value"]: (int(row["before"]), int(row["after"])) for row in csv.DictReader(file)}
    assert coverage["front"][0] == coverage["back"][0] == 15
    assert sum(after for _, after in coverage.values()) == 3 * len(PEOPLE)


def test_the_card_has_the_hubs_header_and_every_number(selected: Path, scored: Path, tmp_path: Path) -> None:
    text = (selected / "diff_person" / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    read = yaml.safe_load(header)
    assert (
        read["size_categories"] == ["n<1K"] and read["license"] == "other" and "TO BE FILLED IN" in read["license_name"]
    )
    assert "f" * 64 in body and Manifest.read(scored).content_hash in body
    assert f"market1501: {CAMERA}." in body and "| view | back | 15 |" in body
    for line in body.splitlines():
        if line.startswith("!["):
            assert (selected / "diff_person" / line.partition("(")[2].rstrip(")")).is_file()
    assert "Near-copies" in body and "nearest_real.png" in body
    again = shutil.copytree(selected, tmp_path / "again")
    assert main(["select", f"--scored={scored}", "--tracker=null", *RULES, f"--out={again}", "--license=mit"]) == 0
    header = (again / "diff_person" / "README.md").read_text().split("---\n", 2)[1]
    assert yaml.safe_load(header)["license"] == "mit" and "license_name" not in header


def test_it_is_told_from_other_manifests(selected: Path, scored: Path, tmp_path: Path) -> None:
    dataset = detect(selected / "diff_person")
    assert isinstance(dataset, DiffPerson) and dataset.description == "Diff-Person of market1501"
    assert isinstance(detect(scored), ManifestDataset)
    archive = zip_folder(selected / "diff_person", tmp_path / "set.zip", "inside")
    zipped = open_dataset(archive)
    assert isinstance(zipped, DiffPerson)
    assert zipped.manifest().content_hash == dataset.manifest().content_hash
    assert zipped.manifest().images.image(zipped.manifest().numpy("file_name")[0]).mode == "RGB"


def test_a_dataset_with_other_rows_is_refused(selected: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(selected / "diff_person", tmp_path / "set"))
    manifest = Manifest.read(copied)
    manifest.with_columns({"kept": np.arange(len(manifest)) > 0}).write(copied)
    with pytest.raises(UserError, match="not selected"):
        DiffPerson(copied).manifest()
    (copied / "diff_person.json").write_text("{")
    manifest.write(copied)
    with pytest.raises(UserError, match="is damaged"):
        _ = DiffPerson(copied).description


def test_stock_datasets_opens_it(selected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = selected / "diff_person"
    opened = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), data_files="**", split="train", cache_dir=str(tmp_path / "cache")
    )
    manifest = Manifest.read(folder)
    assert opened.remove_columns("image").to_list() == manifest.table.drop_columns("file_name").to_pylist()
    for image, name in zip(opened["image"], manifest.numpy("file_name"), strict=True):
        assert image.tobytes() == Image.open(folder / name).tobytes()


def test_thresholds_can_be_tried_again_and_equal_work_gives_equal_bytes(scored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert select(scored, out, *RULES) == 0
    first = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert (
        select(scored, out, "--rules=[{class_path: ThresholdWithFloorAndCap, init_args: {threshold: 1.5, floor: 1}}]")
        == 0
    )
    assert len(Manifest.read(out / "diff_person")) == len(PEOPLE)
    assert len(list((out / "diff_person" / "images").rglob("*.jpg"))) == len(PEOPLE)
    assert select(scored, out, *RULES) == 0
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == first


def test_identities_that_disagree_are_listed_to_be_generated_again(scored: Path, tmp_path: Path) -> None:
    """Every image of person 3 is made to look like person 4, and one of person 5."""
    folder = Path(shutil.copytree(scored, tmp_path / "scored"))
    manifest = Manifest.read(scored)
    pids, known = manifest.numpy("pid"), manifest.numpy("nearest_label") != None  # noqa: E711
    taken = np.where(pids == 3, 4, pids)
    taken[np.flatnonzero(pids == 5)[0]] = 2
    texts = [f"market1501-{pid:04d}" if ok else None for pid, ok in zip(taken, known, strict=True)]
    manifest.with_columns({"nearest_label": texts}).write(folder)
    assert select(folder, tmp_path / "out", "--rules=[IdentityAgreement]", "--rules.share=0.5") == 0
    assert set(Manifest.read(tmp_path / "out" / "diff_person").numpy("pid")) == {2, 4, 5}
    rejected = Manifest.read(tmp_path / "out" / "rejected")
    reasons = set(rejected.filter(rejected.numpy("pid") == 3).numpy("reason"))
    assert reasons == {"more of its identity's images are nearest to one other identity"}
    words = "0 of 6 images agree, nearest to market1501-0004: 6"
    summary = (tmp_path / "out" / "report" / "summary.txt").read_text()
    assert f"identities to generate again: 1\n  market1501-0003: {words}" in summary and "variety: two kept" in summary
    card = (tmp_path / "out" / "diff_person" / "README.md").read_text()
    assert f"- market1501-0003: {words}" in card and "Variety: two kept" in card
    with (tmp_path / "out" / "report" / "identities.csv").open() as file:
        assert {row["pid"]: row["why_generate_again"] for row in csv.DictReader(file)}["3"] == words


def test_scores_without_consistency_select_by_the_others(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(scored, tmp_path / "scored"))
    manifest = Manifest.read(scored)
    table = manifest.table.drop_columns(["consistency", "nearest_label"])
    Manifest(table, manifest.root).write(folder)
    (folder / "features.npy").unlink()
    assert select(folder, tmp_path / "out", *RULES) == 0
    assert "variety" not in (tmp_path / "out" / "report" / "summary.txt").read_text()
    capsys.readouterr()
    for words in (("--rules=[IdentityAgreement]",), ("--rules=[FixedThreshold]", "--rules.score=consistency")):
        assert select(folder, tmp_path / "none", *words) == 2
        text = " ".join(capsys.readouterr().err.split())
        assert "score again: python -m diffreid_lightning predict --config stages/score_generated" in text
        assert "Traceback" not in text


def test_nothing_that_passes_leaves_the_earlier_selection(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert select(scored, out, *RULES) == 0
    before = Manifest.read(out / "diff_person").content_hash
    capsys.readouterr()
    assert select(scored, out, "--rules=[{class_path: FixedThreshold, init_args: {threshold: 1.5}}]") == 2
    assert "No image passes" in capsys.readouterr().err
    assert Manifest.read(out / "diff_person").content_hash == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--rules=[{class_path: FixedTreshold}]",), "did you mean 'FixedThreshold'"),
        (("--rules=[{class_path: FixedThreshold, init_args: {treshold: 1}}]",), "did you mean 'threshold'"),
        (("--scord=x",), "did you mean"),
        (("--rules=[{class_path: IdentityQuantile, init_args: {quantile: 2}}]",), "IdentityQuantile.quantile must be"),
        (("--config", "pipeline/selekt"), "did you mean --config stages/select"),
        (("--scored=nowhere",), "There is nothing at"),
    ],
)
def test_mistakes_on_the_command_line(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert select(scored, tmp_path / "out", *words) == 2
    text = capsys.readouterr().err
    assert expected in " ".join(text.split()) and "Traceback" not in text, text
    assert not (tmp_path / "out").exists()


def test_somebody_elses_folder_is_not_replaced(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    assert select(scored, tmp_path / "out", *RULES) == 2
    assert (tmp_path / "out" / "thesis.txt").read_text() == "x"


Damage = Callable[[Path], None]


def _not_scored(folder: Path) -> None:
    table = pq.ParquetFile(folder / "metadata.parquet").read()
    pq.write_table(
        table.drop_columns(["confidence", "similarity", "margin", "consistency"]), folder / "metadata.parquet"
    )


def _outside(folder: Path) -> None:
    table = pq.ParquetFile(folder / "metadata.parquet").read()
    names = ["../secret.jpg", *table["file_name"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "file_name", [names]), folder / "metadata.parquet")


def _nan(folder: Path) -> None:
    table = pq.ParquetFile(folder / "metadata.parquet").read()
    values = [float("nan")] * len(table)
    pq.write_table(
        table.set_column(table.column_names.index("margin"), "margin", [values]), folder / "metadata.parquet"
    )


def _torn(folder: Path) -> None:
    file = folder / "metadata.parquet"
    file.write_bytes(file.read_bytes()[:300])


def _thumbnails(folder: Path) -> None:
    np.save(folder / "thumbnails.npy", np.zeros((3, 1536), np.uint8))


def _features(folder: Path) -> None:
    np.save(folder / "features.npy", np.zeros((3, 8), np.float16))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_not_scored, "has no scores"),
        (_outside, "leave the manifest's folder"),
        (_nan, "not finite"),
        (_torn, "cannot be read"),
        (_thumbnails, "uint8 of shape (3, 1536)"),
        (_features, "float16 of shape (3, 8)"),
        (lambda folder: (folder / "thumbnails.npy").unlink(), "thumbnails.npy looked for:"),
        (lambda folder: (folder / "real_images.json").write_text("[]"), "is damaged or of another kind"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage, expected: str
) -> None:
    folder = Path(shutil.copytree(scored, tmp_path / "scored"))
    damage(folder)
    assert select(folder, tmp_path / "out") == 2
    text = " ".join(capsys.readouterr().err.split())
    assert expected in text and "Traceback" not in text
    assert not (tmp_path / "out").exists()


def test_missing_images_are_named(
    scored: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(generated, tmp_path / "generated"))
    manifest = Manifest.read(scored)
    Manifest(manifest.table, copied).write(tmp_path / "scored")
    shutil.copy(scored / "thumbnails.npy", tmp_path / "scored")
    for name in manifest.numpy("file_name"):
        (copied / name).unlink()
    assert select(tmp_path / "scored", tmp_path / "out", *RULES) == 2
    assert "A file is missing" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_w_and_b_records_it_offline(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = [f"--scored={scored}", f"--out={tmp_path / 'out'}", f"--tracker.save_dir={tmp_path / 'track'}"]
    assert main(["select", *words, *RULES]) == 0
    record = read_run(runs_under(tmp_path / "track")[-1])
    history, out = record["history"], tmp_path / "out"
    assert history["select/kept"] == [len(Manifest.read(out / "diff_person"))]
    assert history["select/identities"] == [len(PEOPLE)] and history["select/identities_lost"] == [1]
    assert 0 < history["select/kept_share"][0] < 1 and history["select/images_per_identity"] == [3]
    for name in ("histogram", "kept", "rejected"):
        assert (out / "report" / f"{name}.png").is_file()
        assert history[f"select/pictures/{name}/_type"] == ["image-file"]
    for name in ("identities", "coverage"):
        lines = (out / "report" / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        assert history[f"select/tables/{name}/nrows"] == [len(lines) - 1]
    read, written = (each for each in record["artifacts"] if each.type == "manifest")
    assert read.use_after_commit and read.name == f"manifest-{Manifest.read(scored).content_hash[:16]}"
    assert written.name == f"manifest-{Manifest.read(out / 'diff_person').content_hash[:16]}"
    assert json.loads(written.metadata)["inputs"] == [read.name]
    assert {"README.md", "diff_person.json"} < {each.path for each in written.manifest.contents}


def test_pre_training_mixes_it_with_the_real_images(selected: Path, real: Path, tmp_path: Path) -> None:
    module = ReIDDataModule([str(real), str(selected / "diff_person")], image_size=(64, 32), val_share=0.0)
    assert module.num_identities == len(PEOPLE), "generated images join the people they show"
    rows = module.train_set.rows
    assert rows.generated.sum() == 3 * len(PEOPLE)
    assert not set(rows.camids[rows.generated]) & set(rows.camids[~rows.generated])
    words = ["fit", f"--data.train=[{real},{selected / 'diff_person'}]", "--model.backbone=test_resnet"]
    words += ["--data.sampler.init_args.identities_per_batch=2", "--data.sampler.init_args.generated_share=0.5"]
    words += ["--data.sample_weight=confidence", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    words += ["--data.num_workers=0", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"]
    assert main([*words, "--test_with=none"]) == 0
    provenance = json.loads((tmp_path / "fit-001" / "backbone" / "provenance.json").read_text())
    hashes = [source["manifest"] for source in provenance["training"]["training_data"]["manifests"]]
    assert hashes == [Market1501(real).scan()[0].content_hash, Manifest.read(selected / "diff_person").content_hash]


@pytest.mark.parametrize("said", ["temperature 1.000: calibration is switched off", ""])
def test_the_card_says_how_confidence_was_calibrated(scored: Path, tmp_path: Path, said: str) -> None:
    noted = json.loads((scored / "real_images.json").read_text())
    assert "held-out images" in noted["calibration"], "the tiny scorer was calibrated"
    copied = shutil.copytree(scored, tmp_path / "scored")
    Manifest.read(scored).write(copied)  # whose images lie where they lay
    (copied / "real_images.json").write_text(json.dumps(noted | {"calibration": said}))
    assert select(copied, tmp_path / "out", *RULES) == 0
    text = (tmp_path / "out" / "diff_person" / "README.md").read_text()
    assert (f"Calibration of the confidence: {said}." in text) == bool(said)
    assert "held-out" not in text


def test_rejected_images_are_shown_for_the_reasons_that_are_listed(scored: Path) -> None:
    selection = Selection(ScoredFolder.read(scored).manifest, lambda: np.empty((0, 0), np.uint8))
    selection.drop(selection.labels == 1, "too dark")
    selection.drop(selection.labels == 2, "too small")
    one, two = (draw_rejected(selection, reasons) for reasons in (["too dark"], ["too dark", "too small", "never"]))
    assert one is not None and two is not None and two.height > 1.5 * one.height
    assert draw_rejected(selection, ["never"]) is None


def test_real_rows_of_a_scored_manifest_are_counted_nowhere(scored: Path, tmp_path: Path) -> None:
    """The first image of each person becomes a real one; those were copies of real images."""
    manifest = Manifest.read(scored)
    real = np.asarray([name.endswith("000000_00.jpg") for name in manifest.numpy("file_name")])
    splits = np.where(real, "train", "generated").tolist()
    copied = Path(shutil.copytree(scored, tmp_path / "scored"))
    manifest.with_columns({"split": splits}).write(copied)
    assert select(copied, tmp_path / "out", *RULES) == 0
    summary = (tmp_path / "out" / "report" / "summary.txt").read_text()
    assert "kept 12 of 25 images (48.0 %)" in summary and "before: 5 identities, 5 / 5 / 5" in summary
    assert f"{int(real.sum())}  not a generated image" in summary
    card = (tmp_path / "out" / "diff_person" / "README.md").read_text()
    assert "| generated | 5 | 25 | 5 / 5 / 5 |" in card and "0.00 % of the generated images" in card
    with (tmp_path / "out" / "report" / "coverage.csv").open() as file:
        assert sum(int(row["before"]) for row in csv.DictReader(file)) == 25
    with (tmp_path / "out" / "report" / "identities.csv").open() as file:
        assert {row["images"] for row in csv.DictReader(file)} == {"5"}
    selection = Selection(Manifest.read(copied), lambda: np.empty((0, 0), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        drawn: list[int] = []
        patch.setattr(Axes, "hist", lambda axes, groups, **_: drawn.append(sum(map(len, groups))))
        save_histogram(selection, [], tmp_path / "histogram.png")
    assert set(drawn) == {int(selection.scored.sum())}


def test_a_threshold_beyond_the_scores_leaves_their_axis(scored: Path, tmp_path: Path) -> None:
    selection = Selection(Manifest.read(scored), lambda: np.empty((0, 0), np.uint8))
    values = selection.score("margin")[selection.scored]
    drawn: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "axvline", lambda axes, threshold, **_: drawn.append(threshold))
        rules = [FixedThreshold(threshold, "margin") for threshold in (-2, float(np.median(values)))]
        save_histogram(selection, rules, tmp_path / "histogram.png")
    assert drawn == [float(np.median(values))]


def card_of(scored: Path, **changes: Any) -> str:
    """A card of a selection by no rule, with other numbers in its report."""
    report = replace(summarize(Selection(Manifest.read(scored), lambda: np.empty((0, 0), np.uint8))), **changes)
    return write_card(Card("Title", None, report, [], {}, {}, (0, 0, 0), {}, None, {"histogram": "x.png"}, "x", ""))


def test_the_card_counts_the_values_of_an_attribute_that_has_many(scored: Path) -> None:
    references = {("reference", f"{number}.jpg"): (3, number % 2) for number in range(120)}
    lines = card_of(scored, coverage=references | {("view", "back"): (360, 60)}).splitlines()
    assert [line for line in lines if line.startswith(("| reference", "| view"))] == [
        "| reference | (number of values) | 120 | 60 |",
        "| view | back | 360 | 60 |",
    ]


@pytest.mark.parametrize(("kept", "size"), [(999_999, "100K<n<1M"), (1_000_000, "1M<n<10M"), (10**7, "10M<n<100M")])
def test_the_card_names_the_hubs_category_of_a_large_set(scored: Path, kept: int, size: str) -> None:
    header = card_of(scored, kept=kept).split("---\n")[1]
    assert yaml.safe_load(header)["size_categories"] == [size]


def test_seeds_are_distinct_if_their_noise_is(scored: Path, tmp_path: Path) -> None:
    """The generator of the noise takes 32 bits of a seed."""
    folder = Path(shutil.copytree(scored, tmp_path / "scored"))
    manifest = Manifest.read(scored)
    manifest.with_columns({"seed": [7 + (row << 32) for row in range(len(manifest))]}).write(folder)
    assert select(folder, tmp_path / "out", *RULES) == 0
    assert ", 1 distinct;" in (tmp_path / "out" / "diff_person" / "README.md").read_text()
