"""Measure what a captioner gives the generator: what it reads rightly, and what is generated from its captions.

    python -m experiments.generator.captions --reader READER --chain ColorCaptioner=ROOT --chain ReaderCaptioner=ROOT

Captions: shares read rightly on MiniPerson's ``val`` people, whose columns say what was rendered; where a captioner
says nothing it is not right. Chains: each ``--chain NAME=ROOT`` is a finished chain of the same people. All generated
sets are judged by the first chain's scorer (recognized: the person asked for is the likeliest; 95 % interval over
people), and by a reader that no chain captioned with (as asked: the share of requested views, places and lights that
it reads; in brackets what would be read if the same images had been asked for each other's attributes). KID, times
1000, is measured to the people's real images. Query and gallery are never read. Needs the extra ``imagenet``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffreid_lightning.captioning.attribute_network import AttributeNetwork
from diffreid_lightning.captioning.caption_parser import read_caption
from diffreid_lightning.captioning.color_captioner import describe_colors
from diffreid_lightning.captioning.lexicon import BAG, HAIR
from diffreid_lightning.captioning.reader_captioner import ReaderCaptioner
from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.scorer_checkpoint import load_scorer
from diffreid_lightning.manifest.manifest import Manifest
from experiments.generator.guidance import Judges, measure
from experiments.generator.tiny_sd import kid_features
from experiments.instruments.known_people import choose_people
from experiments.instruments.pictures import read_pictures
from experiments.instruments.report import share_of, table, write_json
from experiments.instruments.requests_shown import ASKED
from experiments.instruments.script import run_script
from tools.miniperson.describe import VIEW

Caption = Callable[[Image.Image], str]
_READ = ("upper color", "lower color", "bag or none", "view", "hair named")
_HEADS = ("captions", "images", "recognized, %", "KID x 1000", "Vendi", *(f"{name} as asked, %" for name in ASKED))


def said(caption: str, kinds: tuple[str, ...]) -> frozenset[str]:
    """Return the modifiers that a caption gives the first garment of some kinds."""
    items = [item for item in read_caption(caption).items if item.kind.common in kinds]
    return items[0].modifiers if items else frozenset()


def check_caption(caption: str, row: Mapping[str, Any]) -> list[bool]:
    """Compare a caption with what was rendered, in the order of the table's columns."""
    parsed = read_caption(caption)
    return [
        row["upper_colour"] in said(caption, ("top", "jacket", "dress")),
        row["lower"] == "dress" or row["lower_colour"] in said(caption, ("trousers", "shorts", "skirt")),
        any(item.kind == BAG for item in parsed.items) == (row["bag"] != "none"),
        VIEW[row["view"]] in parsed.circumstances,
        any(item.kind == HAIR for item in parsed.items),
    ]


def caption_table(captioners: Mapping[str, Caption]) -> tuple[str, dict[str, Any]]:
    """Caption the ``val`` people of both domains and count what is right."""
    rows, kept = [], {}
    for domain in ("campus", "station"):
        people = choose_people(MiniPerson(domain).manifest(), "val", None)
        images = [people.images.image(name) for name in people.table["file_name"].to_pylist()]
        described = people.table.to_pylist()
        for name, caption in captioners.items():
            right = np.array([check_caption(caption(image), row) for image, row in zip(images, described, strict=True)])
            shares = [share_of(column) for column in right.T]
            kept[f"{domain}/{name}"] = dict(zip(_READ, (share.share for share in shares), strict=True))
            rows.append((domain, name, str(len(images)), *(f"{100 * share.share:.1f}" for share in shares)))
    return table("Read rightly, %", ("domain", "captioner", "images", *_READ), rows), kept


def read_chains(words: Sequence[str]) -> dict[str, str]:
    """Read the root of each chain by its name.

    Raises:
        UserError: a word is not NAME=ROOT.
    """
    for word in words:
        if not all(word.partition("=")):
            raise UserError(
                f"--chain {word} does not name the chain and its root",
                looked_for="NAME=ROOT",
                remedy=f"write --chain NAME={word.strip('=')}",
            )
    return dict(word.split("=", 1) for word in words)


def measure_chain(root: Path, judges: Judges) -> dict[str, Any]:
    """Measure the images that a chain generated."""
    rows = Manifest.read(root / "generate")
    real = read_pictures(choose_people(Manifest.read(root / "caption"), "train", None))
    return measure(rows, replace(judges, real=real))


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = found["interval"]
    shown = (found["as_asked"].get(asked) for asked in ASKED)
    shares = (f"{100 * pair[0]:.1f} ({100 * pair[1]:.1f})" if pair else "" for pair in shown)
    recognized = f"{100 * found['recognized']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return (name, str(found["images"]), recognized, f"{1000 * found['kid']:.0f}", f"{found['vendi']:.2f}", *shares)


def run(given: argparse.Namespace) -> None:
    """Measure captioners and chains, print the tables and keep them."""
    roots = read_chains(given.chain)
    own = ReaderCaptioner()
    text, captions = caption_table(
        {"ColorCaptioner": describe_colors, "ReaderCaptioner": lambda image: own.captions([image])[0]}
    )
    print(text)
    texts, chains = [text], {}
    if roots:
        scorer = load_scorer(Path(next(iter(roots.values()))) / "score" / "fit-001" / "scorer")
        judges = Judges(scorer, torch.empty(0), kid_features(), AttributeNetwork.load(given.reader))
        chains = {name: measure_chain(Path(root), judges) for name, root in roots.items()}
        texts.append(table("Generated from these captions", _HEADS, [_row(*each) for each in chains.items()]))
        print(texts[-1])
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "captions.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    write_json(given.out / "captions.json", {"captions": captions, "chains": chains})


def main(argv: list[str] | None = None) -> int:
    """Measure captioners, and chains that used them."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.generator.captions", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--chain", action="append", default=[], help="NAME=ROOT of a finished chain; several")
    parser.add_argument("--reader", type=Path, help="folder of a reader that no chain captioned with")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments/captions"), help="folder for the tables")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every operation")
    return run_script(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
