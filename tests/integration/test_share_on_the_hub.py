"""``push`` and ``pull`` against a stand-in of the hub on this machine; the real hub is not asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from diffreid_lightning.backbones import Backbone, load_initial_weights, save_backbone
from diffreid_lightning.backbones.weight_provenance import initialization_record
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.dataset_layouts import picture
from tests.fixtures.hub_server import READER, WRITER, Hub, running_hub

Command = Callable[..., int]
HASH = "ab" * 32


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub to which the client of this process is directed, with a login that may write."""
    with running_hub() as server:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its servers are not stood in for
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield server


def write_backbone(run: Path) -> Path:
    backbone = Backbone("test_resnet", image_size=(64, 32), last_stride=1, pooling="gem")
    provenance = {
        "training_data": {"manifests": [{"sources": ["market1501"], "manifest": HASH}], "identities": 4, "images": 9},
        "steps": 7,
        "init_from": str(run / "earlier"),
    }
    folder = save_backbone(backbone, run / "backbone", provenance=provenance)
    (run / "results.csv").write_text("stage,dataset,weights,mAP\ntest,market1501,last,12.3456\n", encoding="utf-8")
    return folder


def write_personalized(run: Path) -> Path:
    folder = run / "personalized"
    (folder / "lora").mkdir(parents=True)
    person = {"name": "<m-1>", "source": "market1501", "partition": "train", "pid": 1, "description": ""}
    base = {"model": "owner/base", "weights": HASH}
    note = {"base": base, "template": "a photo of {identity}", "identities": [person]}
    (folder / "identities.json").write_text(json.dumps(note), encoding="utf-8")
    training = {"training_data": {"manifest": HASH, "images": 9}, "steps": 5}
    (folder / "provenance.json").write_text(json.dumps(training), encoding="utf-8")
    save_file({"tokens": torch.ones(1, 4)}, folder / "tokens.safetensors", metadata={"names": '["<m-1>"]'})
    save_file({"unet.a": torch.ones(2)}, folder / "lora" / "pytorch_lora_weights.safetensors")
    return folder


def write_diff_person(run: Path) -> Path:
    folder = run / "diff_person"
    names = [f"images/{number}.jpg" for number in range(3)]
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(picture(2, 1, number))
    columns = {
        "file_name": names, "source": "market1501", "partition": "train", "pid": 2, "camid": 7, "split": "generated",
        "role": "identity", "source_pid": 2, "prompt": "somebody", "attributes": "{}", "seed": [0, 1, 2],
        "generator": HASH, "confidence": 0.9, "similarity": 0.8, "margin": 0.1, "kept": True, "reason": "",
    }  # fmt: skip
    Manifest.from_columns(folder, columns).write(folder)
    (folder / "diff_person.json").write_text('{"format": 1}', encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: other\n---\n# Mine\n", encoding="utf-8")
    return folder


WRITERS = {"backbone": write_backbone, "personalized": write_personalized, "diff_person": write_diff_person}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_comes_back_byte_for_byte(
    kind: str, hub: Hub, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    sent = contents(WRITERS[kind](run))
    assert command("push", run, "me/thing") == 0, capsys.readouterr().err
    assert "(private)" in capsys.readouterr().out
    (place,) = hub.repositories
    assert place == ("datasets/me/thing" if kind == "diff_person" else "models/me/thing")
    assert hub.repositories[place].private
    assert command("pull", "me/thing", "--out", "again") == 0, capsys.readouterr().err
    assert "again" in capsys.readouterr().out
    came = contents(tmp_path / "again")
    card = came["README.md"].decode()
    assert {**came, "README.md": b""} == {**sent, "README.md": b""}
    assert card in hub.cards, "the header was given to the hub for a check"
    if kind == "diff_person":
        assert came["README.md"] == sent["README.md"]
    else:
        assert (
            "license: unknown" in card
            and f"training data: market1501, content hash `{HASH}`" in card
            and "personal data" in card
        )
        assert str(tmp_path) not in card, "folders of this computer"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".again")) == []


def test_the_card_of_a_backbone_loads_it_in_stock_timm(hub: Hub, command: Command, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path / "run")
    assert command("push", folder, "me/net", "--license", "mit") == 0
    card = hub.repositories["models/me/net"].commits[hub.repositories["models/me/net"].branches["main"]]["README.md"]
    text = card.decode()
    assert "license: mit" in text and "image size: 64 × 32" in text
    assert "| test | market1501 | last | 12.3456 |" in text
    code = text.partition("```python\n")[2].partition("```")[0]
    check = f"\nimport torch, safetensors.torch\nfirst = safetensors.torch.load_file('{folder / 'model.safetensors'}')"
    check += "\nassert all(torch.equal(v, first[k]) for k, v in model.state_dict().items())"
    exec(code + check, {})


def test_a_backbone_on_the_hub_is_an_initialization_with_all_that_belongs_to_it(
    hub: Hub, command: Command, tmp_path: Path
) -> None:
    folder = write_backbone(tmp_path / "run")
    assert command("push", folder, "me/net") == 0
    ours, theirs = (Backbone("test_resnet", image_size=(64, 32)) for _ in range(2))
    local = load_initial_weights(ours, str(folder))
    report = load_initial_weights(theirs, "hf-hub:me/net")
    assert report.source == "hf-hub:me/net"
    assert (theirs.last_stride, theirs.pooling) == (ours.last_stride, ours.pooling) == (1, "gem")
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert local.missing == report.missing
    assert initialization_record("hf-hub:me/net")["sources"] == ["market1501"]


def test_a_second_push_leaves_no_file_of_the_first(hub: Hub, command: Command, tmp_path: Path) -> None:
    folder = write_diff_person(tmp_path / "run")
    (folder / "images" / "[old].jpg").write_bytes(b"old")
    assert command("push", folder, "me/set", "--revision", "v2") == 0
    (folder / "images" / "[old].jpg").unlink()
    assert command("push", folder, "me/set", "--revision", "v2") == 0
    repository = hub.repositories["datasets/me/set"]
    assert set(repository.commits[repository.branches["v2"]]) == {*contents(folder), ".gitattributes"}
    assert set(repository.commits[repository.branches["main"]]) == {".gitattributes"}
    assert command("pull", "datasets/me/set", "--revision", "v2") == 0
    assert contents(tmp_path / "set") == contents(folder)


def test_what_is_not_shared_is_refused_before_any_connection(
    hub: Hub, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    folder = write_backbone(run)
    (tmp_path / "photos").mkdir()

    def refused(*words: object) -> str:
        assert command("push", *words) == 2
        return capsys.readouterr().err

    assert "neither a backbone" in refused(tmp_path / "photos", "me/x")
    write_personalized(run)
    assert "run/backbone" in (error := refused(run, "me/x")) and "run/personalized" in error
    assert "OWNER/NAME" in refused(folder, "nobody")
    (folder / "old.pth").write_bytes(b"")
    assert "old.pth" in refused(folder, "me/x")
    (folder / "old.pth").unlink()
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    assert "is damaged" in refused(folder, "me/x")
    images = write_diff_person(tmp_path / "other")
    assert "has a card" in refused(images, "me/x", "--license", "mit")
    (images / "images/1.jpg").unlink()
    assert "images/1.jpg" in refused(images, "me/x")
    assert hub.asked == []


def test_what_the_hub_refuses_is_worded(
    hub: Hub, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_backbone(tmp_path / "run")
    hub.add("models/me/public", {})
    hub.add("models/me/other", {"a.txt": b"a"}, private=True)

    def refused(*words: object, code: int = 2) -> str:
        assert command(*words) == code
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    assert "me/public is public" in refused("push", folder, "me/public")
    assert "holds something else" in refused("push", folder, "me/other")
    assert "not one that pull reads" in refused("pull", "me/other")
    assert "There is no repository me/missing" in refused("pull", "me/missing")
    assert "no such revision" in refused("pull", "me/other", "--revision", "v9")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "does not let you write" in (error := refused("push", folder, "me/new")) and "HF_TOKEN" in error
    monkeypatch.delenv("HF_TOKEN")
    assert "private" in refused("pull", "me/other")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused("pull", "me/other")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused("push", folder, "me/new")
    assert command("push", folder, "me/new", "--token", "hf_secret") == 2


def test_publishing_is_asked_for_and_shows_no_real_image(
    hub: Hub, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_diff_person(tmp_path / "run")
    (folder / "card").mkdir()
    (folder / "card/nearest_real.png").write_bytes(picture(2, 1, 0))
    assert command("push", folder, "me/set", "--public") == 2
    assert "real images" in capsys.readouterr().err and hub.asked == []
    (folder / "card/nearest_real.png").unlink()
    (folder / "README.md").write_text("---\nlicense: nonsense\n---\n", encoding="utf-8")
    assert command("push", folder, "me/set", "--public") == 2
    assert "one of the list" in capsys.readouterr().err
    (folder / "README.md").write_text("---\nlicense: other\n---\n", encoding="utf-8")
    assert command("push", folder, "me/set", "--public") == 0
    assert "(public)" in capsys.readouterr().out and not hub.repositories["datasets/me/set"].private


def test_pull_takes_no_pickle_and_no_damaged_folder(
    hub: Hub, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = contents(write_backbone(tmp_path / "run"))
    hub.add("models/me/pickled", {**files, "pytorch_model.bin": b"x"})
    hub.add("models/me/foreign", {**files, "config.json": b'{"architectures": ["BertModel"]}'})
    hub.add("datasets/me/short", {k: v for k, v in contents(write_diff_person(tmp_path)).items() if "1.jpg" not in k})
    for name, said in ("pickled", "pytorch_model.bin"), ("foreign", "architecture"), ("short", "images/1.jpg"):
        assert command("pull", f"me/{name}") == 2
        assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "diff_person", "cache"}


def test_pull_replaces_nothing(hub: Hub, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_backbone(tmp_path / "run")
    hub.add("models/me/net", contents(folder))
    assert command("pull", "me/net") == 0 and command("pull", "me/net") == 0
    assert "was already" in capsys.readouterr().out
    (tmp_path / "net" / "config.json").write_bytes((folder / "config.json").read_bytes() + b" ")
    assert command("pull", "me/net") == 2
    assert "config.json" in capsys.readouterr().err
    assert (tmp_path / "net" / "config.json").read_bytes().endswith(b" ")


def test_an_interrupted_pull_goes_on(
    hub: Hub, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = contents(write_backbone(tmp_path / "run"))
    hub.add("models/me/net", sent)
    hub.broken = {"model.safetensors"}
    assert command("pull", "me/net", "--out", "here") == 1
    assert "the same command again" in capsys.readouterr().err
    assert not (tmp_path / "here").exists()
    kept = {name for name in contents(tmp_path / ".here.pull") if name in sent}
    hub.broken, hub.cut = set(), "model.safetensors"
    hub.asked.clear()
    assert command("pull", "me/net", "--out", "here") == 0, capsys.readouterr().err
    fetched = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET /me/net/resolve")}
    assert fetched == set(sent) - kept
    assert contents(tmp_path / "here") == sent


def damage_program(folder: Path) -> None:
    (folder / "sampler.py").write_text("print('run')", encoding="utf-8")


def damage_link(folder: Path) -> None:
    (folder / "images").rename(folder.with_name("elsewhere"))
    (folder / "images").symlink_to(folder.with_name("elsewhere"))


def damage_root(folder: Path) -> None:
    Manifest.from_columns(folder.parent, Manifest.read(folder).table.to_pydict()).write(folder)


DAMAGES = {
    "a program": (damage_program, "may be pickles or programs"),
    "images behind a link": (damage_link, "links to folders are not followed"),
    "images elsewhere": (damage_root, "names images outside itself"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_would_not_arrive_whole_is_not_sent(
    damage: str, hub: Hub, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_diff_person(tmp_path / "run")
    make, told = DAMAGES[damage]
    make(folder)
    assert command("push", folder, "me/set") == 2
    assert told in capsys.readouterr().err
    assert not hub.repositories


def test_a_card_that_is_on_the_hub_is_kept(hub: Hub, command: Command, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path / "run")
    assert command("push", folder, "me/net", "--license", "mit") == 0
    assert command("push", folder, "me/net") == 0
    repository = hub.repositories["models/me/net"]
    assert b"license: mit" in repository.commits[repository.branches["main"]]["README.md"]


def test_a_table_of_something_else_is_not_published(hub: Hub, command: Command, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path / "run")
    (folder.parent / "results.csv").write_text("customer,phone\nsomebody,123\n", encoding="utf-8")
    assert command("push", folder, "me/net") == 0
    assert not any("somebody" in card for card in hub.cards)


@pytest.mark.parametrize("place", ["the current folder", "a link", "beside a backup"])
def test_pull_writes_no_place_that_would_be_lost(
    place: str, hub: Hub, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert command("push", write_backbone(tmp_path / "run"), "me/net") == 0
    for name in ("empty", ".set.previous"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    out = {"the current folder": ".", "a link": str(tmp_path / "link"), "beside a backup": str(tmp_path / "set")}[place]
    monkeypatch.chdir(tmp_path / "empty")
    assert command("pull", "me/net", "--out", out) == 2
    told = {"the current folder": "the current folder", "a link": "a link", "beside a backup": "rename it back"}
    assert told[place] in capsys.readouterr().err
    assert (tmp_path / "link").is_symlink() and (tmp_path / ".set.previous").is_dir() and Path.cwd().is_dir()
