"""The history of a run over several attempts, and its settings."""

from __future__ import annotations

from pathlib import Path

from diffreid_lightning.metric_history import read_history
from diffreid_lightning.report.run_comparison import differing_settings
from diffreid_lightning.report.run_files import read_run
from diffreid_lightning.run_summary import METRICS
from tests.unit.report.conftest import HOSTILE, make_run


def test_a_later_attempt_replaces_what_came_after_its_start(tmp_path: Path) -> None:
    first = "epoch,step,train/loss,val/mAP\n0,10,5,\n1,20,4,50\n2,30,9,60\n"
    second = "epoch,step,train/loss,val/mAP\n1,20,3,\n2,30,2,70\n3,40,"  # killed in the middle of a line
    run = make_run(tmp_path / "fit-001", attempts=(first, second))
    found = {name: (list(line[0]), list(line[1])) for name, line in read_run(run).history.items()}
    assert found == {"train/loss": ([10, 20, 30], [5, 3, 2])}, "val/mAP has one value left, which is no curve"


def test_ten_attempts_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    texts = tuple(f"step,train/loss\n{10 * n},{n}\n" for n in range(1, 12))
    steps, values = read_history(make_run(tmp_path / "fit-001", attempts=texts) / METRICS)["train/loss"]
    assert list(steps) == [10 * n for n in range(1, 12)] and list(values) == list(range(1, 12))


def test_settings_are_dotted_and_a_damaged_run_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "fit-001", seed=3)
    assert read_run(run).settings == {"seed_everything": "3", "model.lr": "0.1", "model.note": HOSTILE}
    (run / "summary.json").write_text("{", encoding="utf-8")
    (run / "config.yaml").write_text("a: [", encoding="utf-8")
    found = read_run(run)
    assert found.summary is None and "damaged" in found.problem and found.settings == {} and found.config == "a: ["


def test_only_settings_that_differ_are_compared() -> None:
    settings = [{"a": "1", "b": "2"}, {}, {"a": "1", "b": "3", "c": "4"}]
    assert differing_settings(settings) == {"b": ["2", "–", "3"], "c": ["–", "–", "4"]}
