"""The lists that must agree: packages on disk, setup.cfg, environment.yml."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import yaml

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
