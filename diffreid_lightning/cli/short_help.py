"""Write the first page of help of ``fit``, ``validate``, ``test`` and ``predict``: what a person needs first.

It is written without importing torch; ``--help all`` is jsonargparse's list of every setting.
"""

from __future__ import annotations

import re
from functools import reduce
from textwrap import shorten
from typing import Any

from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.storage.yaml_files import read_yaml

_PROGRAM = "python -m diffreid_lightning"
_TRAINED = "--ckpt_path RUN|last|FILE"
_EXAMPLES = {
    "fit": (
        "Train a Re-ID backbone, or a stage of the chain; then report mAP and Rank-1 on query and gallery.",
        (
            ("", "MiniPerson, about a minute"),
            ("--config recipes/bot_market1501 --data.train PATH", "a dataset's folder or zip"),
            ("--config mine.yaml --model.optimizer.lr 1e-3", "own settings; flags overrule"),
            ("--ckpt_path last", "continue the newest run"),
        ),
    ),
    "validate": (
        "Evaluate a checkpoint on the identities that were held out of its training.",
        ((_TRAINED, "with the run's own settings"),),
    ),
    "test": (
        "Evaluate a checkpoint on query and gallery.",
        (
            (_TRAINED, "with the run's own settings"),
            ("--ckpt_path last --data.test /data/dukemtmc", "on another dataset (direct transfer)"),
        ),
    ),
    "predict": (
        "Write features of query and gallery, or run a stage of the chain: caption, generate, score_generated.",
        ((_TRAINED, "features of query and gallery"), ("--config stages/generate", "a stage of the chain")),
    ),
}
#: of fit's default configuration; the defaults are read from it
_SETTINGS = {
    "data.train": "dataset: folder, zip, Diff-Person, or a list of them",
    "data.image_size": "height and width in pixels",
    "data.val_share": "share of the training people held out for validation",
    "data.sampler.identities_per_batch": "people in a batch (P)",
    "data.sampler.images_per_identity": "images of each (K)",
    "model.backbone": "a timm model",
    "model.losses": "class names",
    "model.optimizer.lr": "learning rate",
    "trainer.max_epochs": "epochs",
    "trainer.accelerator": "cpu, gpu or auto; also trainer.devices, .precision",
    "trainer.default_root_dir": "folder of the runs",
    "seed_everything": "seed of weights, batches and augmentation",
}
_FURTHER = {
    "model.init_from": "initial weights: RUN/backbone, hf-hub:OWNER/NAME, null",
    "test_with": "weights for the test at the end: last, best or none",
}


def write_short_help(command: str) -> str:
    """Write the page of a command.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    purpose, examples = _EXAMPLES[command]
    blocks = [
        f"usage: {_PROGRAM} {command} [--config NAME|FILE ...] [--SETTING VALUE ...]",
        purpose,
        _columns([(f"{_PROGRAM} {command} {words}".rstrip(), text) for words, text in examples], ""),
    ]
    if command == "fit":
        blocks.append("Settings used most, with their defaults:\n" + _columns(_settings(), "  --"))
    if configs := _configs(command):
        blocks.append(f"Configs for {command} that come with the package:\n" + _columns(configs, "  --config "))
    more = [
        (f"{command} --help all", "every setting"),
        (f"{command} --model.help SupervisedReID", "the settings of a class; also --data.help CLASS"),
        (f"{command} --print_config", "the configuration as it would be used"),
    ]
    return "\n\n".join([*blocks, "More:\n" + _columns(more, f"  {_PROGRAM} ")])


def _settings() -> list[tuple[str, str]]:
    default = read_yaml(configs_folder() / "default.yaml")
    rows = [(f"{name} {_format_value(_find(default, name))}", text) for name, text in _SETTINGS.items()]
    return rows + [(f"{name} ...", text) for name, text in _FURTHER.items()]


def _find(config: Any, name: str) -> Any:
    """Look a setting up; a class's arguments lie below ``init_args``."""
    return reduce(lambda node, key: node.get("init_args", node)[key] if key not in node else node[key],
                  name.split("."), config)  # fmt: skip


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        names = [each["class_path"] if isinstance(each, dict) else str(each) for each in value]
        return f"[{','.join(names)}]"
    return str(value)


def _configs(command: str) -> list[tuple[str, str]]:
    """List the stages and recipes whose examples run the command, with the first clause of their comment."""
    found = []
    for file in sorted(configs_folder().glob("[sr]*/*.yaml")):
        comment = "\n".join(re.findall(r"^# ?(.*)", file.read_text(encoding="utf-8"), re.MULTILINE))
        if re.search(rf"python -m diffreid_lightning {command} .*--config {file.parent.name}/{file.stem}\b", comment):
            comment = re.sub(r"^Stage \d, [^:]*: ", "", comment)
            clause = re.split(r"[.:](?:\s|$)|\n\s*(?=python -m)", comment, maxsplit=1)[0]
            found.append((f"{file.parent.name}/{file.stem}", shorten(" ".join(clause.split()), 76, placeholder=" ...")))
    return found


def _columns(rows: list[tuple[str, str]], before: str) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{before}{left:<{width}}   {right}" for left, right in rows)
