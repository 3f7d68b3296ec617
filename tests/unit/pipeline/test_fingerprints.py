"""What belongs to the key of a stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffreid_lightning.pipeline import fingerprints
from diffreid_lightning.pipeline.graph import read_chain


def key(*words: str, root: str = "out", lists: str = "", **variables: str) -> str:
    """Return the key of a stage with these words, in a chain whose first stage lists a dataset and a model."""
    named = "".join(f", {name}: {value}" for name, value in variables.items())
    Path("chain.yaml").write_text(
        f"""
variables: {{root: {root}, data: people, model: net{named}}}
stages:
  first: {{run: fit, data: [data], models: [model], makes: [a]}}
  asked: {{run: "fit --config one.yaml {" ".join(words)}"{lists}, makes: [a]}}
""",
        encoding="utf-8",
    )
    chain = read_chain(["chain.yaml"], {}, {})
    return fingerprints.stage_key(chain, chain.stages[1], {})


@pytest.fixture(autouse=True)
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("seed_everything: 0\n", encoding="utf-8")
    Path("w").mkdir()
    Path("w/lcm.safetensors").write_bytes(b"1")


@pytest.mark.parametrize("word", ["[w/lcm.safetensors]", "{class_path: A, init_args: {path: w/lcm.safetensors}}"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_file_inside_a_bracketed_flag_counts(word: str, joined: bool) -> None:
    words = (f"'--model.adapters={word}'",) if joined else ("--model.adapters", f"'{word}'")
    before = key(*words)
    Path("w/lcm.safetensors").write_bytes(b"2")
    assert key(*words) != before


def test_the_users_files_below_the_root_count_and_outputs_do_not() -> None:
    Path("first").mkdir()
    for path, counts in ((Path("w/lcm.safetensors"), True), (Path("first/made.safetensors"), False)):
        path.write_bytes(b"1")
        before = key(f"--model.adapters={path}", root=".")
        path.write_bytes(b"2")
        assert (key(f"--model.adapters={path}", root=".") != before) == counts, path


@pytest.mark.parametrize("name", ["data", "model"])
def test_a_dataset_or_a_model_that_is_read_and_not_listed_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for made in ("1", "2"):
        monkeypatch.setattr(fingerprints, "dataset_hash", lambda path, made=made: path + made)
        monkeypatch.setattr(fingerprints, "model_hash", lambda path, made=made: path + made)
        unread = key()
        listed = key(lists=f", {'models' if name == 'model' else name}: [{name}]")
        Path("one.yaml").write_text(f"read: '${{oc.env:DIFFREID_{name.upper()}}}'\n", encoding="utf-8")
        read = key()
        Path("one.yaml").write_text("seed_everything: 0\n", encoding="utf-8")
        if made == "1":
            first = unread, listed, read
    assert unread == first[0] and listed != first[1] and read != first[2]


def test_a_variable_may_be_a_long_text() -> None:
    Path("one.yaml").write_text("prompt: '${oc.env:DIFFREID_PROMPT}'\n", encoding="utf-8")
    assert key(prompt=300 * "a") != key(prompt=300 * "b")
