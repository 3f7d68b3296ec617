"""The lists that must agree: packages on disk, setup.cfg, environment.yml."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import yaml

from diffreid_lightning.cli.main import HELP

ROOT = Path(__file__).resolve().parents[2]


def options() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirement_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_every_package_on_disk_is_in_the_wheel() -> None:
    listed = set(requirement_lines(options()["options"]["packages"])) - {"diffreid_lightning.configs"}
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "diffreid_lightning").rglob("__init__.py")
    }
    assert listed == on_disk


def test_the_cards_nine_packages_are_declared() -> None:
    declared = {
        re.split(r"[\s<>=!\[]", line)[0] for line in requirement_lines(options()["options"]["install_requires"])
    }
    card = {"lightning", "torch", "diffusers", "transformers", "timm", "torchmetrics", "wandb", "omegaconf", "einops"}
    assert card <= declared


def test_the_malicious_lightning_releases_are_excluded() -> None:
    line = next(x for x in requirement_lines(options()["options"]["install_requires"]) if x.startswith("lightning"))
    assert {"!= 2.6.2", "!= 2.6.3"} <= {part.strip() for part in line.removeprefix("lightning").split(",")}


def test_environment_yml_installs_this_checkout_and_no_list_of_its_own() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert {re.split(r"[\s<>=]", item)[0] for item in conda} == {"python", "pip"}
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[(.+)\]", line)
    assert extras is not None
    assert set(extras.group(1).split(",")) <= set(options()["options.extras_require"])
    lower = options()["options"]["python_requires"].strip().removeprefix(">=")
    assert f">={lower}" in next(item for item in conda if item.startswith("python"))


def test_the_container_is_made_of_what_is_here() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in requirement_lines(text)]
    known = {"FROM", "COPY", "RUN", "WORKDIR", "ENV", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in lines} <= known
    copied = {name for word, rest in lines if word == "COPY" for name in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"}
    assert sent == copied
    parser = options()
    assert {parser["metadata"]["long_description"].split()[-1], parser["metadata"]["license_files"]} <= copied
    (extras,) = re.findall(r"/src\[([\w,]+)\]", text)
    assert set(extras.split(",")) <= set(parser["options.extras_require"])
    entry, command = (next(json.loads(rest) for word, rest in lines if word == each) for each in ("ENTRYPOINT", "CMD"))
    assert entry == ["python", "-m", "diffreid_lightning"] and f" {command[0]} " in HELP
