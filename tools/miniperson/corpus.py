"""A corpus of rendered people: who there is, which pictures are taken of them, and what each file is called.

Every draw comes from (seed, identity, picture) alone, so pictures can be rendered in any order, by any number of
processes, and again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from tools.miniperson.clips import CLIPS, Clip
from tools.miniperson.look import Look, draw_look, resembling
from tools.miniperson.palette import GARMENT
from tools.miniperson.places import viewpoints
from tools.miniperson.viewpoint import Viewpoint
from tools.miniperson.world import world_viewpoints

# First number behind the seed: which stream a draw belongs to.
_LOOKS, _PICTURES, _EXTRAS, _PIDS, _PLAN, _UNSEEN = 1, 2, 3, 4, 5, 6
_RETAKEN = 1000
_WORLD = 90  # its seed
FOLDERS = {"train": "bounding_box_train", "val": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


@dataclass(frozen=True)
class Corpus:
    """A set of people under a set of cameras.

    Args:
        name: the domain; the manifest's ``source`` is ``miniperson_`` and this.
        seed: another seed, other people and other pictures.
        viewpoints: the cameras.
        clips: what people do.
        train: identities to train on.
        val: identities held out from training, in the same folder as those of ``train``.
        test: identities of query and gallery.
        images: fewest and most pictures of one identity.
        cameras: fewest cameras that see an identity.
        bystanders: people in the gallery whom nobody asks for; Market's pid 0 with ``bad_boxes``.
        bad_boxes: gallery pictures of badly cut people, also pid 0.
        junk: gallery pictures that count neither way, Market's pid -1.
        twins: chance that an identity shares sex and colors with an earlier one of its split.
        captions: whether the manifest describes each picture in words.
        avoid: outfits that nobody here may wear.
        unseen: pairs of colors (upper, lower); whoever wears one of them is in ``val`` and not in ``train``.
        crowd: chance that someone else comes into a picture.
    """

    name: str
    seed: int
    viewpoints: tuple[Viewpoint, ...]
    clips: tuple[Clip, ...]
    train: int = 160
    val: int = 40
    test: int = 100
    images: tuple[int, int] = (6, 8)
    cameras: int = 4
    bystanders: int = 60
    bad_boxes: int = 40
    junk: int = 40
    twins: float = 0.4
    captions: bool = False
    avoid: frozenset[tuple[str, ...]] = frozenset()
    unseen: frozenset[tuple[str, str]] = frozenset()
    crowd: float = 0.45


@dataclass(frozen=True)
class Picture:
    """One file to render.

    Args:
        file_name: path below the corpus's folder.
        split: train, val, query or gallery.
        pid: number of the person; 0 a distractor, -1 junk.
        camid: number of the camera, from 1.
        number: which picture of the person, for its draws.
        framing: good, bad (a badly placed box) or junk (a fragment of a person).
    """

    file_name: str
    split: str
    pid: int
    camid: int
    number: int
    framing: str = "good"


@dataclass(frozen=True)
class Person:
    """One identity with its pictures: the unit that is rendered in one go.

    Args:
        index: number of the person within the corpus, for its draws.
        look: appearance.
        pictures: in order.
    """

    index: int
    look: Look
    pictures: tuple[Picture, ...]


def domain(name: str, identities: int | None = None) -> Corpus:
    """One of MiniPerson's two domains.

    Args:
        name: ``campus`` or ``station``.
        identities: a smaller corpus of about so many people, for a trial; None for the whole.
    """
    corpus = Corpus(name, {"campus": 71, "station": 72}[name], viewpoints(name), CLIPS[name])
    if identities is None:
        return corpus
    share = identities / (corpus.train + corpus.val + corpus.test)
    return replace(
        corpus,
        **{key: max(1, round(getattr(corpus, key) * share)) for key in ("train", "val", "test")},
        **{key: round(getattr(corpus, key) * share) for key in ("bystanders", "bad_boxes", "junk")},
    )


def world(identities: int = 3000, cameras: int = 48) -> Corpus:
    """A captioned corpus to learn pedestrians in general from.

    It shares no camera, background, color cast or pose clip with MiniPerson, and nobody in it wears the outfit (sex,
    garments and their colors, hair, bag) of anybody there; bodies are drawn anew. People whose colors of upper and
    lower garment are one of 20 pairs make up ``val``: a generator trained on ``train`` has never seen these together.

    Args:
        identities: how many people.
        cameras: how many cameras.
    """
    worn = frozenset(person.look.outfit for name in ("campus", "station") for person in people(domain(name)))
    worn |= frozenset(look.outfit for name in ("campus", "station") for look in extras(domain(name)))
    return Corpus(
        "world",
        _WORLD,
        world_viewpoints(_WORLD, cameras),
        CLIPS["world"],
        train=identities,
        val=0,
        test=0,
        images=(5, 7),
        bystanders=0,
        bad_boxes=0,
        junk=0,
        captions=True,
        avoid=worn,
        unseen=_unseen_pairs(_WORLD),
        crowd=0.2,
    )


def _unseen_pairs(seed: int, count: int = 20) -> frozenset[tuple[str, str]]:
    """Pairs of two different garment colors, drawn at random."""
    pairs = [(upper, lower) for upper in GARMENT for lower in GARMENT if upper != lower]
    order = np.random.default_rng([seed, _UNSEEN]).permutation(len(pairs))
    return frozenset(pairs[index] for index in order[:count])


def retaken(corpus: Corpus, images: int) -> list[Person]:
    """The training people before the same cameras, in pictures that the corpus does not hold.

    Args:
        corpus: whose people.
        images: pictures of each person, shared out over all cameras.

    Returns:
        The people with their new pictures, which are numbered from 1000.
    """
    again = []
    for person in people(corpus):
        if person.pictures[0].pid <= 0 or person.pictures[0].split != "train":
            continue
        rng = np.random.default_rng([corpus.seed, _PLAN, person.index, _RETAKEN])
        pid = person.pictures[0].pid
        cameras = np.resize(rng.permutation(len(corpus.viewpoints)), images)
        pictures = [
            _picture(corpus, rng, "train", pid, int(camera), _RETAKEN + number) for number, camera in enumerate(cameras)
        ]
        again.append(replace(person, pictures=tuple(pictures)))
    return again


def picture_rng(corpus: Corpus, person: int, number: int) -> np.random.Generator:
    """The source of every draw of one picture."""
    return np.random.default_rng([corpus.seed, _PICTURES, person, number])


@cache
def extras(corpus: Corpus, count: int = 12) -> tuple[Look, ...]:
    """People who come into other people's pictures."""
    return tuple(_new_look(corpus, np.random.default_rng([corpus.seed, _EXTRAS, index])) for index in range(count))


def _new_look(corpus: Corpus, rng: np.random.Generator, twin: Look | None = None) -> Look:
    """Draw someone; with a ``twin``, of the same short description, and half the time of the same long one."""
    close = twin is not None and rng.random() < 0.5
    while True:
        look = draw_look(rng, twin.coarse if twin else None)
        if twin is not None and close:
            look = resembling(look, twin)
        if look.outfit not in corpus.avoid:
            return look


def people(corpus: Corpus) -> list[Person]:
    """Everyone in the corpus with their pictures: train, val, test, bystanders, bad boxes, junk."""
    groups = ["train"] * corpus.train + ["val"] * corpus.val + ["test"] * corpus.test
    # Numbers are dealt across the splits, as in Market-1501, where train and test share one range.
    pids = np.random.default_rng([corpus.seed, _PIDS]).permutation(len(groups)) + 1
    seen: dict[str, list[Look]] = {"train": [], "val": [], "test": []}
    everyone = []
    for index, (group, pid) in enumerate(zip(groups, pids, strict=True)):
        rng = np.random.default_rng([corpus.seed, _LOOKS, index])
        known = seen[group]
        twin = known[int(rng.integers(len(known)))] if known and rng.random() < corpus.twins else None
        look = _new_look(corpus, rng, twin)
        known.append(look)
        if (look.upper_fabric.name, look.lower_fabric.name) in corpus.unseen:
            group = "val"
        everyone.append(Person(index, look, _pictures(corpus, index, int(pid), group)))
    return everyone + _others(corpus, len(groups))


def _pictures(corpus: Corpus, index: int, pid: int, group: str) -> tuple[Picture, ...]:
    rng = np.random.default_rng([corpus.seed, _PLAN, index])
    count = int(rng.integers(corpus.images[0], corpus.images[1] + 1))
    total = len(corpus.viewpoints)
    seen_by = rng.permutation(total)[: int(rng.integers(min(corpus.cameras, total), total + 1))]
    order = np.concatenate([seen_by, rng.choice(seen_by, max(count - len(seen_by), 0))])[:count]
    queries = (3 if count >= 7 else 2) if group == "test" else 0
    pictures = []
    for number, camera in enumerate(order):
        split = group if group != "test" else ("query" if number < queries else "gallery")
        pictures.append(_picture(corpus, rng, split, pid, int(camera), number))
    return tuple(pictures)


def _picture(
    corpus: Corpus, rng: np.random.Generator, split: str, pid: int, camera: int, number: int, framing: str = "good"
) -> Picture:
    camid = corpus.viewpoints[camera].camid
    label = f"{pid:04d}" if pid >= 0 else "-1"
    sequence, frame = int(rng.integers(1, 7)), int(rng.integers(1, 999_999))
    name = f"{FOLDERS[split]}/{label}_c{camid}s{sequence}_{frame:06d}_{number:02d}.jpg"
    return Picture(name, split, pid, camid, number, framing)


def _others(corpus: Corpus, first: int) -> list[Person]:
    """Distractors and junk of the gallery."""
    kinds = ["good"] * corpus.bystanders + ["bad"] * corpus.bad_boxes + ["junk"] * corpus.junk
    others = []
    for offset, framing in enumerate(kinds):
        index = first + offset
        rng = np.random.default_rng([corpus.seed, _LOOKS, index])
        look = _new_look(corpus, rng)
        pid = -1 if framing == "junk" else 0
        count = 2 if framing == "good" else 1
        cameras = rng.permutation(len(corpus.viewpoints))[:count]
        pictures = [
            _picture(corpus, rng, "gallery", pid, int(camera), number, framing) for number, camera in enumerate(cameras)
        ]
        others.append(Person(index, look, tuple(pictures)))
    return others
