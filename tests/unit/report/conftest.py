"""A chain on disk as a report finds it, without having been run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.pipeline.fingerprints import Record, record_file
from diffreid_lightning.report.selection_section import DATASET, REJECTED, REPORT
from diffreid_lightning.run_summary import CONFIG_FILE, IDENTITY_FILE, METRICS, RunSummary

HOSTILE = "<script>alert(1)</script>"
REASON = f"confidence below 0.5 {HOSTILE}"
CARD = f"""---
license: other
---
# Diff-Person

Text {HOSTILE} ![scores](card/histogram.png) ![elsewhere](https://example.org/a.png) ![above](../../secret.png)

## Counts

| | images |
|---|---|
| train | 3 |
"""


def save_image(file: Path, value: int = 90) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 8, 3), value, np.uint8)).save(file)


def make_run(
    folder: Path, seed: int = 0, score: float = 80.0, attempts: tuple[str, ...] = (), split: str = "test"
) -> Path:
    folder.mkdir(parents=True)
    (folder / IDENTITY_FILE).write_text("{}", encoding="utf-8")
    config = f"seed_everything: {seed}\nmodel: {{init_args: {{lr: 0.1, note: '{HOSTILE}'}}}}\n"
    (folder / CONFIG_FILE).write_text(config, encoding="utf-8")
    for number, text in enumerate(attempts, start=1):
        file = folder / METRICS / f"attempt-{number}" / "metrics.csv"
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
    metrics = {split: {"mAP": score, "Rank-1": score + 5}, "train": {"loss": 1.0}}
    RunSummary(
        "fit", "id", 1, "0" * 64, seed=seed, metrics=metrics, seconds={"fit": 60.0}, versions={"torch": "2"}
    ).write(folder)
    save_image(folder / "rank_lists_test.png")
    return folder


def make_manifest(folder: Path, names: list[str], root: Path | None = None, **columns: object) -> Manifest:
    root = folder if root is None else root
    for name in names:
        save_image(root / name)
    generated = {"source_pid": 1, "prompt": "a person", "attributes": "{}", "seed": 0, "generator": "g"}
    base = {"source": "made", "partition": "train", "pid": 1, "camid": 0, "split": "generated", "role": "identity"}
    manifest = Manifest.from_columns(root, {"file_name": names, **base, **generated, **columns})
    manifest.write(folder)
    return manifest


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Return the root of a chain of three stages: real images, a selection, a run."""
    root = tmp_path / "chain"
    make_manifest(root / "caption", ["real/0.jpg", "real/1.jpg"], split="train")
    select = root / "select"
    make_manifest(select / DATASET, ["a.jpg", "b.jpg"], confidence=[0.9, 0.8], kept=True, reason="kept")
    make_manifest(select / REJECTED, ["c.jpg"], root / "generate", confidence=[0.1], kept=False, reason=REASON)
    (select / DATASET / "diff_person.json").write_text(json.dumps({"rules": [f"Rule({HOSTILE})"]}), encoding="utf-8")
    (select / DATASET / "README.md").write_text(CARD, encoding="utf-8")
    for file in (select / DATASET / "card" / "histogram.png", root / "secret.png"):
        save_image(file)
    for name in ("histogram", "kept", "rejected"):
        save_image(select / REPORT / f"{name}.png")
    make_run(root / "transfer" / "fit-001", attempts=("step,epoch,train/loss\n0,0,3\n10,1,2\n20,2,1\n",))
    for name, seconds in (("caption", 5.0), ("select", 10.0), ("transfer", 85.0)):
        Record("key", "output", seconds).write(record_file(root, name))
    return root
