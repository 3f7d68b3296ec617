"""How far jobs are, what sets their folders aside, and which datasets a folder has to do with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.job_records import FILE, Record, Workplace, forget, sources_below
from diffreid_lightning.benchmark.jobs import Job, choose
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.run_summary import RunSummary
from tests.fixtures.dataset_layouts import put, write_market1501
from tests.unit.benchmark.conftest import MakeGrid


@pytest.fixture
def jobs(make_grid: MakeGrid) -> dict[str, Job]:
    return expand(make_grid())


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    forget()
    market = write_market1501(tmp_path / "market", cameras=(1, 2))
    return Workplace(tmp_path / "root", {"market": str(market), "duke": str(tmp_path / "nowhere")})


def test_a_job_is_done_only_after_its_command_has_ended_well(jobs: dict[str, Job], place: Workplace) -> None:
    job = jobs["scratch/supervised/market/seed-0"]
    assert place.state(job, jobs) == "to do"
    begun = place.begin(job, jobs)
    assert place.state(job, jobs) == "interrupted"
    place.end(job, begun, -9, 4.0)
    assert place.state(job, jobs) == "failed"
    again = place.begin(job, jobs)
    assert again.token != begun.token
    place.end(job, again, 0, 6.0)
    assert place.state(job, jobs) == "done"
    record = place.record(job)
    assert record is not None and record.seconds == 10.0, "of all attempts"


def test_other_data_under_the_same_path_are_other_work(jobs: dict[str, Job], place: Workplace, tmp_path: Path) -> None:
    job = jobs["scratch/supervised/market/seed-0"]
    place.end(job, place.begin(job, jobs), 0, 1.0)
    (place.folder(job) / "result").touch()
    put(tmp_path / "market/bounding_box_train/0777_c1s1_000001_00.jpg", 777, 1)
    forget()
    assert place.state(job, jobs) == "outdated"
    place.begin(job, jobs)
    assert place.state(job, jobs) == "interrupted"
    assert not (place.folder(job) / "result").exists()
    (aside,) = place.folder(job).parent.glob("*.outdated-1")
    assert (aside / "result").exists()


def test_data_that_are_not_here_are_taken_to_be_what_they_were(
    jobs: dict[str, Job], place: Workplace, tmp_path: Path
) -> None:
    job = jobs["scratch/supervised/market/seed-0"]
    place.end(job, place.begin(job, jobs), 0, 1.0)
    (tmp_path / "market").rename(tmp_path / "moved")
    forget()
    assert place.state(job, jobs) == "done"


def test_what_was_made_anew_makes_those_who_read_it_outdated(jobs: dict[str, Job], place: Workplace) -> None:
    direct = jobs["scratch/direct/duke-to-market/seed-0"]
    (needed,) = (jobs[name] for name in direct.needs)
    place.end(needed, place.begin(needed, jobs), 0, 1.0)
    place.end(direct, place.begin(direct, jobs), 0, 1.0)
    assert place.state(direct, jobs) == "done"
    place.end(needed, place.begin(needed, jobs), 0, 1.0)
    assert place.state(direct, jobs) == "outdated"


def test_what_is_outdated_makes_those_who_need_it_outdated_at_once(
    jobs: dict[str, Job], place: Workplace, tmp_path: Path
) -> None:
    direct = jobs["scratch/direct/market-to-duke/seed-0"]
    (needed,) = (jobs[name] for name in direct.needs)
    for job in (needed, direct):
        place.end(job, place.begin(job, jobs), 0, 1.0)
    record = place.record(needed)
    assert record is not None
    Record(record.inputs | {"market": "other"}, record.needs, record.token, 0).write(place.folder(needed))
    assert [place.state(job, jobs) for job in (needed, direct)] == ["outdated", "outdated"]


def test_other_weights_under_the_same_path_count(make_grid: MakeGrid, place: Workplace, tmp_path: Path) -> None:
    weights = tmp_path / "luperson"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"one")
    changes = {"initializations": {"ready weights": {"init_from": str(weights)}}}
    jobs, name = expand(make_grid(changes)), "ready-weights/supervised/market/seed-0"
    assert jobs[name].weights == str(weights)
    place.end(jobs[name], place.begin(jobs[name], jobs), 0, 1.0)
    for content, state in ((b"two", "outdated"), (None, "done")):
        if content is None:  # on another machine
            (weights / "model.safetensors").unlink()
        else:
            (weights / "model.safetensors").write_bytes(content)
        forget()
        jobs = expand(make_grid(changes))
        assert place.state(jobs[name], jobs) == state


def test_other_images_to_pre_train_on_under_the_same_path_count(
    make_grid: MakeGrid, place: Workplace, tmp_path: Path
) -> None:
    images = write_market1501(tmp_path / "synthetic")
    zipped = tmp_path / "synthetic.zip"
    shutil.make_archive(str(images), "zip", images)
    changes = {
        "pretrain": "fit --config stages/pretrain",
        "initializations": {"ours": {"pretrained_on": str(images)}, "zipped": {"pretrained_on": str(zipped)}},
    }
    jobs, names = expand(make_grid(changes)), [f"made/pre-trained/{row}/seed-0" for row in ("ours", "zipped")]
    for name in names:
        place.end(jobs[name], place.begin(jobs[name], jobs), 0, 1.0)
        assert place.state(jobs[name], jobs) == "done"
    put(images / "bounding_box_train/0777_c1s1_000001_00.jpg", 777, 1)
    shutil.make_archive(str(images), "zip", images)
    forget()
    jobs = expand(make_grid(changes))
    assert [place.state(jobs[name], jobs) for name in names] == ["outdated", "outdated"]


def test_what_is_needed_and_no_longer_here_counts_as_unchanged(jobs: dict[str, Job], place: Workplace) -> None:
    cell = jobs["diff-person/supervised/market/seed-0"]
    wanted = choose(jobs, cell.name)
    for job in wanted.values():
        place.end(job, place.begin(job, jobs), 0, 1.0)
    (needed,) = (jobs[name] for name in cell.needs)
    shutil.rmtree(place.folder(needed))

    def left(chosen: dict[str, Job]) -> list[str]:
        return list(place.left(chosen, place.states(chosen, jobs)))

    assert place.state(cell, jobs) == "done"
    assert not left(wanted), "nobody needs it now"
    assert left(choose(jobs, needed.name)) == [needed.name], "unless it is asked for"
    place.end(needed, place.begin(needed, jobs), 0, 1.0)  # for another cell
    assert place.state(cell, jobs) == "done"
    place.end(needed, place.begin(needed, jobs), 0, 1.0)
    assert place.state(cell, jobs) == "outdated", "a folder that was there has been filled anew"
    shutil.rmtree(place.folder(needed))
    shutil.rmtree(place.folder(cell))
    assert left(wanted) == [needed.name, cell.name]


@pytest.mark.parametrize("text", ["", "[]", '{"inputs": {}, "needs": {}}'])
def test_a_damaged_record_is_none(jobs: dict[str, Job], place: Workplace, text: str) -> None:
    job = jobs["scratch/supervised/market/seed-0"]
    place.begin(job, jobs)
    (place.folder(job) / FILE).write_text(text)
    assert Record.read(place.folder(job)) is None
    assert place.state(job, jobs) == "to do"


def test_a_job_is_locked_against_others_and_unlocked_again(jobs: dict[str, Job], place: Workplace) -> None:
    job = jobs["scratch/supervised/market/seed-0"]
    lock = place.lock(job)
    assert lock is not None
    assert place.lock(job) is None
    lock.release()
    other = place.lock(job)
    assert other is not None
    other.release()


def test_the_newest_test_and_the_only_fit_are_read(jobs: dict[str, Job], place: Workplace) -> None:
    fit, test = jobs["scratch/supervised/market/seed-0"], jobs["scratch/direct/duke-to-market/seed-0"]
    assert place.result(fit) is None and place.result(test) is None
    for job, run, mean in ((fit, "fit-001", 1.0), (test, "test-001", 2.0), (test, "test-002", 3.0)):
        folder = place.folder(job) / run
        folder.mkdir(parents=True)
        RunSummary(run[:4], "id", 1, "0", metrics={"test": {"mAP": mean}}).write(folder)
    (place.folder(test) / "test-003").mkdir()  # killed before its result
    assert [place.result(job)[1].metrics["test"]["mAP"] for job in (fit, test)] == [1.0, 3.0]  # type: ignore[index]


def test_sources_are_read_from_manifests_and_notes(tmp_path: Path) -> None:
    columns = {"file_name": ["a.jpg"], "source": "station", "partition": "train", "pid": 1, "camid": 1}
    rows = Manifest.from_columns(tmp_path, {**columns, "split": "train", "role": "identity"})
    rows.write(tmp_path / "generate")
    note = {"training": {"training_data": {"manifests": [{"sources": ["campus"]}]}}}
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone/provenance.json").write_text(json.dumps(note))
    assert sources_below(tmp_path) == {"station", "campus"}
