"""What errors about data tell to do: each is done here as it is printed, and works."""

from __future__ import annotations

import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffreid_lightning.cli import main
from diffreid_lightning.datasets import (
    CUHK03NP,
    MSMT17,
    DukeMTMCReID,
    Market1501,
    MSMT17Market,
    PersonFolder,
    Subset,
    open_dataset,
)
from diffreid_lightning.datasets.inspect import Report, check
from diffreid_lightning.datasets.subset_selection import few_shot, small_scale
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.datamodule import ReIDDataModule
from tests.fixtures.dataset_layouts import put, write_cuhk03np, write_market1501, write_msmt17, write_person_folder

pytestmark = pytest.mark.filterwarnings("ignore")
PEOPLE = {"people": ["anna", "bob", "cleo"]}


def files(root: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        put(root / name, index, 1, index)
    return root


def refused(act: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as error:
        act()
    assert error.value.remedy, str(error.value)
    return error.value


def market_of(*people: str, test: str = "eva") -> list[str]:
    names = [f"bounding_box_train/{p}_c{c}s1_{c:06d}_00.jpg" for p in people for c in (1, 2)]
    return [*names, *(f"{f}/{test}_c{c}s1_00000{c}_00.jpg" for f in ("query", "bounding_box_test") for c in (1, 2))]


@pytest.mark.parametrize(
    ("names", "format_", "people"),
    [
        (market_of("anna", "bob", "carl"), None, 3),
        (market_of("0000", "0001", "0002", test="0009"), None, 3),
        (market_of("0000", "0001", "0002", test="0009"), "MSMT17Market", 3),
        ([f"cam_{c}/{p:03d}_45.bmp" for c in "ab" for p in range(4)], "PersonFolder", 4),
        ([f"{c}/{p}/{k}.jpg" for c in "AB" for p in ("anna", "bob", "cy") for k in (1, 2)], None, 3),
        ([f"{p}/{c}/{k}.jpg" for c in "AB" for p in ("anna", "bob", "cy") for k in (1, 2)], None, 3),
        ([f"{p}/{c}/{k}.jpg" for c in "AB" for p in ("anna", "bob", "cy") for k in (1, 2)], "PersonFolder", 3),
        ([f"all/{p:04d}_c{c}s1_00000{c}_00.jpg" for p in (1, 2, 3) for c in (1, 2)], "PersonFolder", 3),
        ([f"TRAIN/{p:04d}_c{c}_{k}.jpg" for p in (1, 2, 3) for c in (1, 2) for k in (1, 2)], None, 3),
        ([f"{s}/{p}/{k}.jpg" for s, p in (("train", "a1"), ("train", "b1"), ("test", "c1")) for k in (1, 2)], None, 2),
    ],
)
def test_the_command_that_is_printed_for_a_folder(
    tmp_path: Path, names: list[str], format_: str | None, people: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "check", str(files(tmp_path / "a set", *names)), *(("--format", format_) if format_ else ())]
    assert main(words) == 2
    said = capsys.readouterr().err
    checked, trained, *_ = re.findall(r"python -m diffreid_lightning (.*)\n", said)
    assert main(shlex.split(checked)) == 0
    options = dict(re.findall(r"--data\.train\.(\w+) ('[^']*'|\S+)", trained))
    arguments = {name: yaml.safe_load(shlex.split(value)[0]) if name == "camera_folders" else shlex.split(value)[0]
                 for name, value in options.items()}  # fmt: skip
    module = ReIDDataModule(PersonFolder(**arguments), image_size=(32, 16), val_share=0)
    assert module.num_identities == people


@pytest.mark.parametrize(
    ("names", "people", "cameras"),
    [
        ([f"{p:03d}/cam{c}/{i}.jpg" for p in range(4) for c in range(2) for i in range(2)], 4, 2),
        ([f"{p}/cam_{c}/{i}.jpg" for p in ("anna", "bob") for c in "ab" for i in range(3)], 2, 2),
        ([f"train/{p:03d}/cam{c}/{i}.jpg" for p in range(3) for c in range(2) for i in range(2)], 3, 2),
        (
            [f"{s}/{p:03d}/{i}_x.jpg" for s in ("training", "probe", "gallery") for p in range(4) for i in range(2)],
            4,
            8,
        ),
        ([f"shots/cam_{c}/{p:03d}_45.jpg" for p in range(4) for c in "ab"], 4, 2),
    ],
)
def test_running_numbers_in_folders_of_people_are_no_people(
    tmp_path: Path, names: list[str], people: int, cameras: int
) -> None:
    error = refused(lambda: open_dataset(files(tmp_path / "set", *names)))
    assert f"{people} ids, {people * 2 if cameras == 8 else len(names)} images, {cameras} cameras" in str(error.remedy)


@pytest.mark.parametrize("inside", [["1", "2"], ["1"]], ids=["some", "all"])
def test_suffixes_are_renamed_as_it_is_said(tmp_path: Path, inside: list[str]) -> None:
    root = write_person_folder(tmp_path / "set", people=["1", "2"], camera_in="none")
    moved = [f for person in ("1", "2") for f in sorted((root / person).iterdir()) if inside == ["1"] or f.name > "2"]
    for number, file in enumerate(moved):
        file.rename(file.with_suffix((".jfif", "")[number % 2]))
    if inside == ["1"]:
        error = refused(lambda: open_dataset(root).manifest())
        said, remedy = str(error), str(error.remedy)
    else:
        report = check(root)
        said = remedy = report.hints[0]
        assert report.splits[0].counts.images == 12 - len(moved)
    assert f"{len(moved)} files that look like images" in said and ".jfif" in said and "without suffix" in said
    assert "rename .jfif files to .jpg" in remedy and "rename files without suffix to .jpg" in remedy
    for file in moved:
        (file.with_suffix((".jfif", "")[moved.index(file) % 2])).rename(file)
    assert check(root).splits[0].counts.images == 12
    assert not any("look like images" in hint for hint in check(root).hints)


def test_every_format_can_be_given_another_source(tmp_path: Path) -> None:
    makers = {
        Market1501: lambda root: write_market1501(root),
        MSMT17: lambda root: write_msmt17(root),
        CUHK03NP: lambda root: write_cuhk03np(root),
        PersonFolder: lambda root: write_person_folder(root),
    }
    for form, write in makers.items():
        one, two = (write(tmp_path / form.__name__ / name) for name in ("one", "two"))
        for other in (form(two), Subset(form(two), identities=2)):
            pair = [form(one), other]
            error = refused(lambda pair=pair: ReIDDataModule(pair, val_share=0).num_identities)
            found = re.search(r"--data\.train ('.*')\n", str(error.remedy))
            assert found is not None
            configs = yaml.safe_load(shlex.split(found[1])[0])
            made = [make(config) for config in configs]
            alone = [ReIDDataModule(dataset, val_share=0).num_identities for dataset in made]
            assert ReIDDataModule(made, val_share=0).num_identities == sum(alone)
    for form in (DukeMTMCReID, MSMT17Market):
        assert form(tmp_path, source="own").source == "own" and form(tmp_path).source == form.source


def make(config: dict[str, Any]) -> Any:
    classes = {form.__name__: form for form in (Market1501, MSMT17, CUHK03NP, PersonFolder, Subset)}
    arguments = {k: make(v) if isinstance(v, dict) else v for k, v in config["init_args"].items()}
    return classes[config["class_path"]](**arguments)


def test_the_list_that_is_printed_is_taken_by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = (str(write_market1501(tmp_path / name)) for name in ("one", "two"))
    words = ["fit", "--data.val_share=0", "--data.image_size=[32,16]"]
    with pytest.raises(UserError) as error:
        ReIDDataModule([one, two], val_share=0).num_identities  # noqa: B018
    found = re.search(r"--data\.train '.*'", str(error.value))
    assert found is not None
    assert main([*words, *shlex.split(found[0]), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert [config["init_args"]["source"] for config in printed["train"]] == ["market1501", "market1501_2"]


def test_one_identity_is_named_and_a_second_helps(tmp_path: Path) -> None:
    root = write_person_folder(tmp_path / "set", people=["1"], camera_in="none")
    assert check(root).problems == ["only one identity to train on"]
    error = refused(lambda: ReIDDataModule(str(root)).train_set)
    assert "one identity: nothing can be told apart" in error.what
    put(root / "2" / "0.jpg", 2, 1)
    error = refused(lambda: ReIDDataModule(str(root), val_share=0.5).train_set)
    assert "--data.val_share 0" in str(error.remedy)
    assert check(root).ok and ReIDDataModule(str(root), val_share=0).num_identities == 2


@pytest.mark.parametrize(
    ("write", "message", "mend"),
    [
        (lambda r: write_person_folder(r, test_people=["8"], **PEOPLE), "holds no images: gallery, query", "rmdir"),
        (lambda r: files(r, "train/1/a.jpg", "train/2/a.jpg", "query/3/a.jpg"), "add or give the other", "gallery"),
        (lambda r: files(r, "train/1/a.jpg", "train/2/a.jpg", "b.jpg"), "out of the dataset", "b.jpg"),
        (lambda r: files(r, "1/a.jpg", "2/a.jpg", "b.jpg"), "of the form <person>/<file>", "b.jpg"),
    ],
)
def test_folders_that_lack_or_hold_too_much(
    tmp_path: Path, write: Callable[[Path], Path], message: str, mend: str
) -> None:
    root = write(tmp_path / "set")
    if mend == "rmdir":
        for split in ("query", "gallery"):
            shutil.rmtree(root / split)
            (root / split).mkdir()
    assert message in str(refused(lambda: PersonFolder(root).manifest()))
    if mend == "rmdir":
        (root / "query").rmdir()
        (root / "gallery").rmdir()
    elif mend == "gallery":
        put(root / "gallery" / "3" / "b.jpg", 3, 2)
    else:
        (root / mend).unlink()
    assert len(PersonFolder(root).manifest()) >= 2


def test_arguments_that_are_proposed(tmp_path: Path) -> None:
    root = write_person_folder(tmp_path / "set", test_people=["8", "9"])
    put(root / "train" / "0001" / "portrait.jpg", 1, 1)
    error = refused(lambda: PersonFolder(root, pattern=r"cam(?P<camera>\d+)").manifest())
    junk = re.search(r"junk: '(.*)'$", str(error.remedy))
    assert junk is not None and PersonFolder(root, pattern=r"cam(?P<camera>\d+)", junk=junk[1]).junk == 1
    for wrong, right in (("trian", "train"), ("Train", "train"), ("galery", "gallery")):
        assert f"did you mean --val {right}?" in str(
            refused(lambda wrong=wrong: PersonFolder(root, val=wrong).manifest())
        )
    overlap = {"train": "train", "query": "gallery", "gallery": "*allery"}
    assert "without a common image" in str(refused(lambda: PersonFolder(root, **overlap).manifest()))
    assert len(PersonFolder(root, **{**overlap, "query": "query"}).manifest())
    (root / "list.txt").write_text("train/0001/portrait.jpg\nno.jpg\n")
    assert "correct these lines" in str(refused(lambda: PersonFolder(root, train="list.txt").manifest()))
    (root / "list.txt").write_text("train/0001/portrait.jpg\n")
    assert len(PersonFolder(root, train="list.txt", pattern="(?P<pid>[^/]+)/[^/]+$").manifest()) == 1
    camera = refused(lambda: PersonFolder(root, pattern="x"))
    example = str(camera.remedy).removeprefix("for instance ")
    assert PersonFolder(root, pattern=example).camera_in_name
    assert "give pattern" in str(
        refused(lambda: PersonFolder(files(tmp_path / "s", "c1/a.jpg", "c2/a.jpg")).manifest())
    )
    assert len(PersonFolder(tmp_path / "s", pattern="(?P<pid>[^/]+)/[^/]+$").manifest()) == 2


@pytest.mark.parametrize("given", ["set/anna", "."])
def test_a_folder_of_people_one_level_off(tmp_path: Path, given: str) -> None:
    write_person_folder(tmp_path / "set", **PEOPLE)  # type: ignore[arg-type]
    write_person_folder(tmp_path / "other", **PEOPLE)  # type: ignore[arg-type]
    remedy = str(refused(lambda: open_dataset(tmp_path / given)).remedy)
    found = re.findall(r"(/\S+) \(PersonFolder\)", remedy)
    assert str(tmp_path / "set") in found and all(check(place).ok for place in found)


def test_benchmarks_that_lack_something(tmp_path: Path) -> None:
    root = write_market1501(tmp_path / "market")
    (root / "query").rename(tmp_path / "query")
    assert "put query beside the others" in str(refused(lambda: open_dataset(root)))
    (tmp_path / "query").rename(root / "query")
    put(root / "query" / "holiday.jpg", 1, 1)
    assert "move them out" in str(refused(lambda: Market1501(root).manifest()).remedy)
    (root / "query" / "holiday.jpg").unlink()
    assert "set distractors_500k to false" in str(refused(lambda: Market1501(root, distractors_500k=True).manifest()))
    assert "strict=False" in str(refused(lambda: Market1501(root, strict=True).manifest()))
    manifest = Market1501(root).manifest()
    refused_share = [lambda: small_scale(manifest, 99, 0), lambda: few_shot(manifest, 2.0, 0)]
    for act in refused_share:
        with pytest.raises(UserError, match="looked for"):
            act()
    boxes = write_cuhk03np(tmp_path / "cuhk", boxes=["labeled"])
    assert "choose the other boxes" in str(refused(lambda: CUHK03NP(boxes).manifest()))
    assert len(CUHK03NP(boxes, boxes="labeled").manifest())
    wrong = refused(lambda: DukeMTMCReID(root).manifest())
    assert str(wrong.remedy) == "this looks like Market1501; use Market1501"


def hints(report: Report) -> str:
    return "; ".join([*report.hints, *report.problems])


def test_what_makes_training_or_measuring_weak_is_said(tmp_path: Path) -> None:
    assert "every identity of train has one image" in hints(check(files(tmp_path / "a", "p1/a.jpg", "p2/a.jpg")))
    one_camera = PersonFolder(
        files(tmp_path / "b", "1_c1_1.jpg", "1_c1_2.jpg", "2_c1_1.jpg"), pattern=r"(?P<pid>\d)_c(?P<camera>1)"
    )
    assert "all of train is from one camera" in hints(check(one_camera))
    test = [f"{s}/{p}_c1_{s}.jpg" for s in ("train", "query", "gallery") for p in (1, 2)]
    same = check(PersonFolder(files(tmp_path / "c", *test), pattern=r"(?P<pid>\d)_c(?P<camera>1)"))
    assert "none of the 2 queries has a match" in hints(same) and "2 person numbers are in train and in test" in hints(
        same
    )
    gallery = write_person_folder(tmp_path / "d", test_people=["9"])
    said = hints(check(gallery))
    assert "the gallery shows one identity" in said and "seem to hold cameras" in said
    copy = write_market1501(tmp_path / "e")
    shutil.copytree(copy / "query", copy / "query" / "query")
    assert "9 file names are in query twice" in hints(check(copy))
    named = PersonFolder(gallery, train="train", pattern=r"cam(?P<camera>\d+)")
    assert "6 images are in none of the given splits" in hints(check(named))
    with pytest.warns(UserWarning, match="in none of the given splits"):
        PersonFolder(gallery, train="train").manifest()


def test_junk_never_becomes_a_person(tmp_path: Path) -> None:
    market = PersonFolder(write_market1501(tmp_path / "m"), pattern=r"(?P<pid>\d+)_c(?P<camera>\d+)s")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = market.manifest()
    assert market.junk == 2 and set(manifest.numpy("pid")) == set(Market1501(tmp_path / "m").manifest().numpy("pid"))
