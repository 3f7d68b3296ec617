"""A chain: what its YAML may say, what runs again and what does not, and how a failing stage is reported."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from diffreid_lightning import config_files
from diffreid_lightning.cli import main
from diffreid_lightning.pipeline import fingerprints, runner, stage_jobs
from diffreid_lightning.pipeline.graph import Stage, read_chain
from diffreid_lightning.pipeline.stage_process import last_words, run_logged
from diffreid_lightning.run_summary import RunSummary
from tests.fixtures.dataset_layouts import write_market1501

CHAIN = """
variables: {root: ROOT, data: DATA, model: MODEL, strength: "1"}
stages:
  first: {run: fit --config one.yaml, data: [data], models: [model], makes: [made.txt]}
  second: {run: predict --config two.yaml, reads: [first], makes: [folder]}
  extra: {run: fit --config one.yaml, needs_package: no_such_package, makes: [made.txt]}
  third: {run: fit --config two.yaml, reads: [second], makes: [made.txt]}
table: {scratch: third, absent: extra}
pictures: {a sheet: second/folder/*.txt}
"""
#: whether stages run one after another, as each shows its output, or through what runs several
BOTH = pytest.mark.parametrize("work", [1, 2], indirect=True, ids=["one job", "two jobs"])


class Ended:
    """A command that has ended when it is looked at."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code


class Work:
    """Stands in for the commands: notes what ran, writes what the stage makes, fails where told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[tuple[str, ...]] = []
        self.fail: dict[str, int] = {}
        self.say = "1"
        self.got_far = True

    def __call__(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        name = log.stem
        self.ran.append((name, *words))
        assert environment["DIFFREID_ROOT"] == str(self.root)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{name} at work\nerror: it was refused\n", encoding="utf-8")
        made = self.root / name
        made.mkdir(exist_ok=True)
        if name in self.fail:
            if self.got_far:
                (made / "fit-001" / "checkpoints").mkdir(parents=True, exist_ok=True)
                (made / "fit-001" / "checkpoints" / "last.ckpt").touch()
            return self.fail[name]
        if name == "second":
            (made / "folder").mkdir(exist_ok=True)
            (made / "folder" / "a.txt").write_text("always the same", encoding="utf-8")
        else:
            (made / "made.txt").write_text(f"{name} {self.say}", encoding="utf-8")
        if name == "third":
            (made / "fit-001").mkdir(exist_ok=True)
            metrics = {"test": {"mAP": 12.34, "Rank-1": 45.6}}
            RunSummary("fit", "id", 1, "0", metrics=metrics).write(made / "fit-001")
        return 0

    def start(self, words: Sequence[str], environment: Mapping[str, str], log: Path, *_: object, **__: bool) -> Ended:
        return Ended(self(words, environment, log))

    @property
    def names(self) -> list[str]:
        names = [name for name, *_ in self.ran]
        self.ran.clear()
        return names


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Work:
    monkeypatch.chdir(tmp_path)
    data = write_market1501(tmp_path / "data", train_ids=range(2, 5))
    root = tmp_path / "out"
    model = tmp_path / "model"
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text("{}", encoding="utf-8")
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    text = CHAIN.replace("ROOT", str(root)).replace("DATA", str(data)).replace("MODEL", str(model))
    (tmp_path / "chain.yaml").write_text(text, encoding="utf-8")
    for name in ("one", "two"):
        read = "${oc.env:DIFFREID_STRENGTH,1}" if name == "two" else "1"
        (tmp_path / f"{name}.yaml").write_text(f"seed_everything: 0\nstrength: {read}\n", encoding="utf-8")
    stand_in = Work(root)
    monkeypatch.setattr(runner, "run_logged", stand_in)
    monkeypatch.setattr(stage_jobs, "start_process", stand_in.start)
    monkeypatch.setattr(stage_jobs, "can_fork", lambda: False)
    monkeypatch.setattr(runner, "default_jobs", lambda: getattr(request, "param", 1))
    return stand_in


def pipeline(*words: str) -> int:
    return main(["pipeline", "--config", "chain.yaml", *words])


@BOTH
def test_all_run_once_and_then_none(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline() == 0
    assert work.names == ["first", "second", "third"]
    said = capsys.readouterr().out
    assert "12.3" in said and "45.6" in said and "a.txt" in said
    assert "no_such_package is not installed" in " ".join(said.split())
    assert pipeline() == 0
    assert work.names == []


@BOTH
def test_a_changed_config_runs_its_stages_and_those_it_reaches(work: Work, tmp_path: Path) -> None:
    pipeline()
    work.names  # noqa: B018 (forget them)
    (tmp_path / "two.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    pipeline()
    # The second stage comes to the same as before; the third has the changed config itself.
    assert work.names == ["second", "third"]
    (tmp_path / "one.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    pipeline()
    assert work.names == ["first"], "what it made is the same, so nothing behind it runs"
    work.say = "2"
    (tmp_path / "one.yaml").write_text("seed_everything: 2\n", encoding="utf-8")
    pipeline()
    assert work.names == ["first", "second"], "the second reads another output, and comes to the same itself"
    aside = work.root / "previous"
    previous = sorted(path.relative_to(aside).as_posix() for path in aside.glob("*/[!.]*"))
    assert previous == ["001/second", "001/third", "002/first", "003/first", "003/second"], "nothing made is lost"


@pytest.mark.parametrize("change", ["data", "pixels", "model", "code", "variable", "made", "comment"])
def test_what_counts_as_a_change(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    pipeline()
    work.names  # noqa: B018
    expected = ["first", "second", "third"]
    words: tuple[str, ...] = ()
    if change == "data":
        image = next((tmp_path / "data").rglob("0002_c1*.jpg"))
        image.rename(image.with_name(image.name.replace("0002_", "0007_")))
        expected = ["first"]
    elif change == "pixels":
        image = next((tmp_path / "data").rglob("0002_c1*.jpg"))
        image.write_bytes(next((tmp_path / "data").rglob("0003_c1*.jpg")).read_bytes())
        expected = ["first"]
    elif change == "model":
        (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"others")
        expected = ["first"]
    elif change == "code":
        monkeypatch.setattr(fingerprints, "code_hash", lambda *_: "another")
    elif change == "variable":
        words = ("--strength", "2")
        expected = ["second", "third"]
    elif change == "made":
        (work.root / "first" / "made.txt").write_text("changed by hand", encoding="utf-8")
        expected = ["first"]
    else:
        (tmp_path / "one.yaml").write_text("# a remark\nseed_everything: 0\nstrength: 1\n", encoding="utf-8")
        expected = []
    assert pipeline(*words) == 0
    assert work.names == expected


def test_a_variable_in_a_stages_own_words_counts(work: Work, tmp_path: Path) -> None:
    chain = (tmp_path / "chain.yaml").read_text(encoding="utf-8")
    words = "fit --config one.yaml --x ${oc.env:DIFFREID_STRENGTH}"
    (tmp_path / "chain.yaml").write_text(chain.replace("fit --config one.yaml, data", f"'{words}', data"), "utf-8")
    pipeline()
    work.names  # noqa: B018
    assert pipeline("--strength", "2") == 0
    assert work.names == ["first", "second", "third"]


def test_results_of_an_earlier_configuration_are_not_shown(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline()
    said = capsys.readouterr().out
    assert "12.3" in said and "a.txt" in said
    assert pipeline("--strength", "2", "--until", "first") == 0
    said = capsys.readouterr().out
    assert "12.3" not in said and "a.txt" not in said, "second and third are those of strength 1"
    assert "since they may be of an earlier configuration: scratch" in said
    assert pipeline("--until", "first") == 0
    assert "12.3" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", '{"format": 1}'])
def test_results_that_were_cut_off_are_not_shown(work: Work, capsys: pytest.CaptureFixture[str], text: str) -> None:
    pipeline()
    assert "12.3" in capsys.readouterr().out
    (file,) = work.root.glob("third/fit-001/*")
    file.write_text(text)
    assert pipeline("--until", "second") == 0
    assert "12.3" not in capsys.readouterr().out


def test_what_was_just_run_is_shown_whatever_was_read(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline()
    monkeypatch.setattr(fingerprints, "code_hash", lambda *_: "another")
    shutil.rmtree(tmp_path / "data")  # another machine, to which the folder was copied
    capsys.readouterr()
    assert pipeline("--from", "third") == 0
    assert "12.3" in capsys.readouterr().out
    assert pipeline("--from", "second", "--until", "second") == 0, "the third is older, and what it reads is not there"


def test_rows_that_were_neither_run_nor_read_are_not_shown(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The chain is changed and run in parts: the third is still what the first of before came to."""
    text = (tmp_path / "chain.yaml").read_text(encoding="utf-8")
    beside = "  beside: {run: fit --config one.yaml, reads: [first], makes: [made.txt]}\ntable:"
    (tmp_path / "chain.yaml").write_text(text.replace("table:", beside), encoding="utf-8")
    pipeline()
    (tmp_path / "one.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    work.say = "2"
    assert pipeline("--until", "first") == 0
    capsys.readouterr()
    assert pipeline("--from", "beside") == 0
    said = capsys.readouterr().out
    assert "12.3" not in said and "since they may be of an earlier configuration: scratch" in said
    assert pipeline() == 0
    assert "12.3" in capsys.readouterr().out


def test_what_was_just_run_is_shown_though_what_it_goes_back_to_failed_since(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline()
    (tmp_path / "one.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    work.fail["first"] = 1
    assert pipeline() == 1
    capsys.readouterr()
    assert pipeline("--from", "third") == 0
    assert "12.3" in capsys.readouterr().out


def test_a_row_of_a_stage_that_only_tests(work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (tmp_path / "chain.yaml").read_text(encoding="utf-8")
    text = text.replace("third: {run: fit", "third: {run: test")
    (tmp_path / "chain.yaml").write_text(text, encoding="utf-8")
    results = work.root / "third" / "test-001" / "summary.json"
    pipeline()
    results.parent.mkdir()
    (work.root / "third" / "fit-001" / "summary.json").rename(results)
    capsys.readouterr()
    assert pipeline() == 0
    assert "12.3" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["previous", "rehearsal", ".stages", "a/b"])
def test_a_stage_has_a_folder_of_its_own(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text = (tmp_path / "chain.yaml").read_text(encoding="utf-8")
    (tmp_path / "chain.yaml").write_text(text.replace("  extra:", f"  {name}:").replace("absent: extra", ""), "utf-8")
    assert pipeline() == 2
    assert f"cannot be called '{name}'" in capsys.readouterr().err
    assert not work.root.exists()


@BOTH
def test_stages_that_are_read_as_they_are_are_named(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline()
    capsys.readouterr()
    assert pipeline("--from", "third") == 0
    assert "read as they are" not in capsys.readouterr().out
    (tmp_path / "one.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    for words in (("--from", "third", "--dry-run"), ("--from", "third"), ("--from", "second", "--until", "second")):
        assert pipeline(*words) == 0
        said = capsys.readouterr().out
        assert "read as they are, though changed or made with other settings: first\n" in said
    shutil.rmtree(work.root / "second")
    assert pipeline("--from", "third") == 0
    assert "other settings: first, second\n" in capsys.readouterr().out


def test_a_variable_of_the_environment_counts_as_it_does_by_hand(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFREID_ROOT", str(work.root))
    pipeline()
    work.names  # noqa: B018
    monkeypatch.setenv("DIFFREID_STRENGTH", "2")
    pipeline()
    assert work.names == ["second", "third"]
    pipeline("--strength", "1")
    assert work.names == ["second", "third"], "the command line comes first"


@pytest.mark.parametrize("words", [["--root", "--dry-run"], ["--until"]])
def test_a_forgotten_value_starts_nothing(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert pipeline(*words) == 2
    said = capsys.readouterr().err
    assert f"{words[0]} has no value after it" in said or f"argument {words[0]}: expected one argument" in said
    assert not work.ran and not (tmp_path / "--dry-run").exists()


def test_what_was_tried_by_hand_beside_a_stage_is_not_its_result(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline()
    by_hand = work.root / "third" / "fit-002"
    by_hand.mkdir()
    RunSummary("fit", "id", 1, "0", metrics={"test": {"mAP": 3.3, "Rank-1": 4.4}}).write(by_hand)
    capsys.readouterr()
    assert pipeline() == 0
    said = capsys.readouterr().out
    assert "12.3" in said and "3.3 " not in said


@BOTH
@pytest.mark.parametrize("far", [True, False])
def test_one_stage_is_put_aside_again_and_again(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str], far: bool
) -> None:
    """It fails, or is killed, each time: once with a checkpoint of other settings, once before any."""
    pipeline()
    work.fail["third"], work.got_far = 1, far
    for strength in ("2", "3", "4", "4"):
        assert pipeline("--strength", strength) == 1
    del work.fail["third"]
    capsys.readouterr()
    assert pipeline("--strength", "4") == 0
    kept = sorted(path.relative_to(work.root).as_posix() for path in work.root.glob("previous/*/third"))
    assert kept == [f"previous/{number:03d}/third" for number in range(1, len(kept) + 1)]
    assert len(kept) == (3 if far else 5), "what can go on is not put aside"
    assert (work.root / kept[0] / "made.txt").read_text(encoding="utf-8") == "third 1"
    assert far or str(work.root / kept[-1]) in capsys.readouterr().out


def test_another_root_is_the_same_work_done_elsewhere(work: Work, tmp_path: Path) -> None:
    pipeline()
    first = json.loads((work.root / ".stages" / "first.json").read_text(encoding="utf-8"))
    work.root = tmp_path / "elsewhere"
    pipeline("--root", str(work.root))
    assert json.loads((work.root / ".stages" / "first.json").read_text(encoding="utf-8"))["key"] == first["key"]


@BOTH
@pytest.mark.parametrize(("code", "expected"), [(2, 2), (1, 1), (-9, 1)])
def test_a_failing_stage_is_named_and_taken_up_again(
    work: Work, capsys: pytest.CaptureFixture[str], code: int, expected: int
) -> None:
    work.fail["third"] = code
    assert pipeline() == expected
    said = capsys.readouterr().err
    assert "'third'" in said and "it was refused" in said and "third.log" in said
    assert work.names == ["first", "second", "third"]
    by_hand = ("fit", "--config", "two.yaml", "--ckpt_path", str(work.root / "third" / "fit-001"))
    assert f"python -m diffreid_lightning {shlex.join(by_hand)}" in said and "DIFFREID_ROOT=" in said
    other = work.root / "third" / "fit-002" / "checkpoints"  # tried by hand, the chain does not read it
    other.mkdir(parents=True)
    (other / "last.ckpt").touch()
    work.fail.clear()
    assert pipeline() == 0
    assert work.ran == [("third", *by_hand)], "goes on where it stopped"


def test_the_time_of_killed_attempts_counts_as_far_as_they_left_something(work: Work) -> None:
    work.fail["third"] = -9
    for seconds in (100, 20):
        assert pipeline() == 1
        begun = (work.root / ".stages/third.begun.json").stat().st_mtime
        os.utime(work.root / "third/fit-001/checkpoints/last.ckpt", (begun, begun + seconds))
    work.fail.clear()
    assert pipeline() == 0
    record = fingerprints.Record.read(work.root / ".stages/third.json")
    assert record is not None and 120 <= record.seconds < 180


@BOTH
def test_a_fit_killed_before_its_first_checkpoint_starts_anew(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    work.fail["third"] = -9
    work.got_far = False
    assert pipeline() == 1
    work.fail.clear()
    work.ran.clear()
    assert pipeline() == 0
    assert work.ran == [("third", "fit", "--config", "two.yaml")], "else its run would lie in fit-002"
    assert "before its first checkpoint" in capsys.readouterr().out


@BOTH
def test_a_stage_that_makes_nothing_is_a_failure(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (tmp_path / "chain.yaml").read_text(encoding="utf-8").replace("makes: [folder]", "makes: [folder, b.txt]")
    (tmp_path / "chain.yaml").write_text(text, encoding="utf-8")
    assert pipeline() == 1
    assert "b.txt" in capsys.readouterr().err
    assert work.names == ["first", "second"]


@BOTH
def test_from_until_and_dry_run(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline("--dry-run") == 0
    assert work.names == []
    assert pipeline("--from", "third") == 2
    assert "--from second" in capsys.readouterr().err
    assert pipeline("--until", "second") == 0
    assert work.names == ["first", "second"]
    assert pipeline("--from=third") == 0
    assert work.names == ["third"]
    assert pipeline("--from", "third", "--until", "first") == 2


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--config", "chain.yaml", "--dta", "x"], "--data"),
        (["--config", "chain.yaml", "--until", "secnd"], "'second'"),
        (["--config", "chain.yaml", "--jobs", "two"], "argument --jobs: invalid int value"),
        (["--config", "chain.yaml", "--jobs=0"], "--jobs"),
        (["--config", "pipelin/tour"], "chains/tour"),
        (["--config", "chain.yaml", "--strength"], "--strength VALUE"),
        (["--config", "chain.yaml", "--data", "nowhere"], "nowhere"),
        (["--config", "chain.yaml", "--root", "chain.yaml"], "There can be no folder chain.yaml"),
        (["--config", "chain.yaml", "--model", "nowhere"], "There is no diffusion model at nowhere"),
        (["dry-run"], "--help"),
    ],
)
def test_mistakes_are_answered(work: Work, capsys: pytest.CaptureFixture[str], words: list[str], hint: str) -> None:
    assert main(["pipeline", *words]) == 2
    said = capsys.readouterr().err
    assert hint in said and "Traceback" not in said
    assert work.names == []


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("reads: [first]", "reads: [frist]", "'first'"),
        ("table:", "tabel:", "'table'"),
        ("makes: [folder]", "make: [folder]", "'makes'"),
        ("root: ROOT, ", "", "'root'"),
        ("root: ROOT, ", "root: '', ", "--root DIR"),
        ("makes: [folder]", "makes: folder", "makes: [NAME, ...]"),
        ("makes: [folder]", "all_threads: 2, makes: [folder]", "all_threads: true"),
        ("run: predict --config two.yaml", 'run: "predict --config \'two.yaml"', "close its quotes"),
        ("run: predict --config two.yaml", "run: ''", "empty"),
        ('{root: ROOT, data: DATA, model: MODEL, strength: "1"}', "[root]", "variables: {NAME: ...}"),
        ("pictures: {a sheet: second/folder/*.txt}", "pictures: [a]", "pictures: {NAME: ...}"),
        ("pictures: {a sheet: second", "pictures: {a sheet: /second", "'a sheet' of chain.yaml does not lie below"),
        (", makes: [folder]", "", "lies over it: --config chains/tour"),
        ("scratch: third", "scratch: thrid", "'third'"),
        ("{run: predict --config two.yaml, reads: [first], makes: [folder]}", "{reads: [first]}", "run: COMMAND"),
    ],
)
def test_a_chain_that_makes_no_sense(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, hint: str
) -> None:
    (tmp_path / "chain.yaml").write_text(CHAIN.replace(old, new), encoding="utf-8")
    assert pipeline() == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("ends", [False, True])
def test_two_chains_do_not_share_a_folder(
    work: Work, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """One whose process ends within some seconds was killed, and has workers that have not noticed."""
    script = (
        "import fcntl, sys, time; handle = open(sys.argv[1], 'w'); fcntl.flock(handle, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )
    monkeypatch.setattr(runner, "_PATIENCE", 60.0 if ends else 0.1)
    work.root.mkdir()
    held = str(work.root / ".lock"), "2" if ends else "60"
    other = subprocess.Popen([sys.executable, "-c", script, *held], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert pipeline() == (0 if ends else 2)
        said = capsys.readouterr().err
        assert "waiting" in said and ("give this one another folder" in said) == (not ends)
        assert work.names == (["first", "second", "third"] if ends else [])
    finally:
        other.kill()
        other.wait()


def test_a_real_command_is_shown_and_logged(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    log = tmp_path / "logs" / "stage.log"
    assert run_logged(["data", "check", str(tmp_path / "nowhere")], {}, log) == 2
    assert b"nowhere" in log.read_bytes()
    assert "error" in last_words(log)
    assert b"nowhere" in capfdbinary.readouterr().out


def test_a_notebook_gets_text_without_colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()  # as a notebook's, it has no buffer for bytes
    monkeypatch.setattr(sys, "stdout", said)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run_logged(["--help"], {}, tmp_path / "stage.log") == 0
    assert "usage:" in said.getvalue() and "\x1b" not in said.getvalue()


def test_the_end_of_a_log_is_without_progress(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"begin\r\n 10%\r 20%\r 100% done\n\nerror: x\n")
    assert last_words(log) == "begin\n 100% done\nerror: x"
    with log.open("ab") as file:  # larger than the memory, and empty on the disk
        file.seek(1 << 42)
        file.write(b"\n" * (1 << 16) + b"error: y\n")
    assert last_words(log) == "error: y"


def test_the_default_and_packaged_vocabularies_count(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """configs/default.yaml lies below a stage's own configs, and a vocabulary is named by a word alone."""
    configs = tmp_path / "configs"
    shutil.copytree(fingerprints.configs_folder(), configs)
    for module in (config_files, fingerprints):
        monkeypatch.setattr(module, "configs_folder", lambda: configs)
    (tmp_path / "two.yaml").write_text("data: {init_args: {vocabulary: rendered}}\n", encoding="utf-8")
    pipeline()
    work.names  # noqa: B018
    vocabulary = configs / "vocabulary/rendered.yaml"
    vocabulary.write_text(vocabulary.read_text() + "\n# changed\n", encoding="utf-8")
    pipeline()
    assert work.names == ["second", "third"]
    default = configs / config_files.DEFAULT
    default.write_text(default.read_text() + "\nunused: 1\n", encoding="utf-8")
    pipeline()
    assert work.names == ["first", "second", "third"]


def test_the_default_of_select_counts_for_it(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(fingerprints.configs_folder(), configs)
    monkeypatch.setattr(config_files, "configs_folder", lambda: configs)
    chain = read_chain(["chain.yaml"], {})
    stages = (Stage("select", ("select",)), Stage("fit", ("fit",)))
    before = [fingerprints.stage_key(chain, stage, {}) for stage in stages]
    file = configs / "stages/select.yaml"
    file.write_text(file.read_text(encoding="utf-8") + "\nunused: 1\n", encoding="utf-8")
    after = [fingerprints.stage_key(chain, stage, {}) for stage in stages]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, False]


def test_an_edge_is_read_off_the_config(work: Work, tmp_path: Path) -> None:
    text = (tmp_path / "chain.yaml").read_text(encoding="utf-8").replace("reads: [first], ", "")
    (tmp_path / "chain.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "two.yaml").write_text("data: '${oc.env:DIFFREID_ROOT,out}/first/made.txt'\n", encoding="utf-8")
    chain = read_chain(["chain.yaml"], {})
    assert {stage.name: stage.reads for stage in chain.stages if stage.available} == {
        "first": (),
        "second": ("first",),
        "third": ("second", "first"),
    }


def test_an_edge_is_read_off_the_commands_own_config_and_in_any_alphabet(work: Work, tmp_path: Path) -> None:
    text = """
variables: {root: out}
stages:
  score_generated: {run: predict, makes: [a]}
  prüfen: {run: predict, makes: [a]}
  select: {run: select --rules.floor 4, makes: [a]}
  last: {run: fit --config two.yaml, makes: [a]}
"""
    (tmp_path / "chain.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "two.yaml").write_text("data: '${oc.env:DIFFREID_ROOT,out}/prüfen/made.txt'\n", encoding="utf-8")
    reads = {stage.name: stage.reads for stage in read_chain(["chain.yaml"], {}).stages}
    assert (reads["select"], reads["last"]) == (("score_generated",), ("prüfen",))


def test_a_default_that_a_flag_replaces_is_no_edge(work: Work, tmp_path: Path) -> None:
    text = """
variables: {root: out}
stages:
  score_generated: {run: predict, makes: [a]}
  mine: {run: "select --scored other/scores --out ${oc.env:DIFFREID_ROOT}/mine", makes: [a]}
  select: {run: select, makes: [a]}
"""
    (tmp_path / "chain.yaml").write_text(text, encoding="utf-8")
    reads = {stage.name: stage.reads for stage in read_chain(["chain.yaml"], {}).stages}
    assert (reads["mine"], reads["select"]) == ((), ("score_generated",))


def test_a_stage_that_another_needs_cannot_be_null(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("stages: {pretrain: null}\n", encoding="utf-8")
    words = ["pipeline", "--config", "chains/tour", "--config", "mine.yaml", "--dry-run"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "'transfer' of chains/tour, mine.yaml reads what 'pretrain' makes, and that stage is null" in said
    for reader in ("{run: fit --config stages/transfer --model.init_from timm}", "null"):
        text = f"stages: {{pretrain: null, transfer: {reader}}}\ntable: {{Diff-Person: null}}\n"
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        assert main(words) == 0, capsys.readouterr().err


def test_the_packaged_chain_has_the_edges_of_the_method() -> None:
    chain = read_chain(["chains/tour"], {})
    assert {stage.name: set(stage.reads) for stage in chain.stages if stage.name != "imagenet"} == {
        "caption": set(),
        "personalize": {"caption"},
        "generate": {"caption", "personalize"},
        "score": {"caption"},
        "score_generated": {"generate", "score"},
        "select": {"score_generated"},
        "pretrain": {"select"},
        "transfer": {"caption", "pretrain"},
        "scratch": {"caption"},
    }


def test_a_file_that_a_variable_names_counts_by_its_content(work: Work, tmp_path: Path) -> None:
    listed = tmp_path / "train.txt"
    listed.write_text("1.jpg\n", encoding="utf-8")
    (tmp_path / "two.yaml").write_text("list_file: ${oc.env:DIFFREID_LIST_FILE,null}\n", encoding="utf-8")
    chain = (tmp_path / "chain.yaml").read_text(encoding="utf-8").replace("root:", f"list_file: {listed}, root:", 1)
    (tmp_path / "chain.yaml").write_text(chain, encoding="utf-8")
    assert pipeline() == 0
    assert work.names == ["first", "second", "third"]
    assert pipeline() == 0
    assert work.names == []
    moved = listed.rename(tmp_path / "moved.txt")
    (tmp_path / "chain.yaml").write_text(chain.replace("train.txt", "moved.txt"), encoding="utf-8")
    assert pipeline() == 0
    assert work.names == [], "where it lies does not matter"
    moved.write_text("2.jpg\n", encoding="utf-8")
    assert pipeline() == 0
    assert work.names == ["second", "third"]


@pytest.mark.parametrize("where", ["config", "word"])
@pytest.mark.parametrize("name", ["model.yaml", "weights/model.safetensors"])
def test_a_file_or_a_folder_of_weights_that_is_named_by_path_counts(
    work: Work, tmp_path: Path, where: str, name: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("a: 1\n", encoding="utf-8")
    path = file if name == "model.yaml" else f"local-dir:{file.parent}"
    if where == "config":
        (tmp_path / "two.yaml").write_text(f"model: {{init_args: {{init_from: '{path}'}}}}\n", encoding="utf-8")
    else:
        chain = (tmp_path / "chain.yaml").read_text(encoding="utf-8")
        chain = chain.replace("--config two.yaml", f"--config two.yaml --model.init_from {path}")
        (tmp_path / "chain.yaml").write_text(chain, encoding="utf-8")
    assert pipeline() == 0 and work.names == ["first", "second", "third"]
    assert pipeline() == 0 and work.names == []
    file.write_text("a: 2\n", encoding="utf-8")
    assert pipeline() == 0 and work.names == ["second", "third"], "both name it"


def test_a_folder_that_no_stage_has_made_is_not_moved(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    (work.root / "first").mkdir(parents=True)
    (work.root / "first" / "precious.txt").touch()
    assert pipeline() == 2
    assert "no stage has made it" in capsys.readouterr().err and (work.root / "first" / "precious.txt").is_file()
    (work.root / "first" / "precious.txt").unlink()
    assert pipeline() == 0


def test_a_folder_of_the_users_with_hidden_files_is_not_moved(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    (work.root / "first").mkdir(parents=True)
    (work.root / "first" / ".DS_Store").touch()
    assert pipeline() == 2
    assert "no stage has made it" in capsys.readouterr().err
    (work.root / "first" / ".DS_Store").rename(work.root / "first" / ".metadata.parquet.part")
    assert pipeline() == 0


@BOTH
def test_what_reads_a_stage_that_is_left_out_is_left_out(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (tmp_path / "chain.yaml").read_text(encoding="utf-8")
    behind = "  fourth: {run: fit --config one.yaml, reads: [first, %s], makes: [made.txt]}\n"
    behind = behind % "extra" + (behind % "fourth").replace("fourth:", "fifth:")
    (tmp_path / "chain.yaml").write_text(text.replace("table:", f"{behind}table:"), encoding="utf-8")
    assert pipeline() == 0
    assert work.names == ["first", "second", "third"]
    said = " ".join(capsys.readouterr().out.split())
    for name in ("fourth", "fifth"):
        assert f"{name} left out no_such_package is not installed, which extra needs" in said


@BOTH
def test_brackets_in_paths_and_labels_are_shown(work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (tmp_path / "chain.yaml").read_text(encoding="utf-8").replace("a sheet:", "'a sheet [abc]':")
    (tmp_path / "chain.yaml").write_text(text.replace("scratch:", "'row [abc]':"), encoding="utf-8")
    work.root = tmp_path / "out[abc]"
    assert pipeline("--root", str(work.root)) == 0
    said = capsys.readouterr().out
    assert f"{work.root}: 4 stages" in said and f"a sheet [abc]: {work.root}" in said and "row [abc]" in said


@pytest.mark.parametrize("name", ["nothing_of_this.name.at_all", "nothing_of_this_name"])
def test_a_stage_whose_package_is_missing_is_left_out(name: str) -> None:
    assert not Stage("x", ("fit",), needs_package=name).available
    assert Stage("x", ("fit",), needs_package="json.decoder").available


@pytest.mark.parametrize("where", ["config", "word", "joined", "variable"])
def test_a_vocabulary_of_the_users_own_counts(work: Work, tmp_path: Path, where: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("view: [a, b]\n", encoding="utf-8")
    if where == "config":
        text = f"data: {{init_args: {{vocabulary: {mine}}}}}\n"
        (tmp_path / "two.yaml").write_text(text, encoding="utf-8")
    elif where == "variable":
        text = "vocabulary: ${oc.env:DIFFREID_VOCABULARY,default}\n"
        (tmp_path / "two.yaml").write_text(text, encoding="utf-8")
        chain = (tmp_path / "chain.yaml").read_text(encoding="utf-8").replace("root:", f"vocabulary: {mine}, root:", 1)
        (tmp_path / "chain.yaml").write_text(chain, encoding="utf-8")
    else:
        word = f"--data.vocabulary{'=' if where == 'joined' else ' '}{mine}"
        chain = (tmp_path / "chain.yaml").read_text(encoding="utf-8")
        chain = chain.replace("--config two.yaml", f"--config two.yaml {word}")
        (tmp_path / "chain.yaml").write_text(chain, encoding="utf-8")
    assert pipeline() == 0
    assert work.names == ["first", "second", "third"]
    assert pipeline() == 0
    assert work.names == []
    mine.write_text("view: [a, c]\n", encoding="utf-8")
    assert pipeline() == 0
    assert work.names == ["second", "third"]
