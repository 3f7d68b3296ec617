"""The plan of a corpus: who, where, under which name. Nothing is rendered here."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from tools.miniperson import corpus as plan
from tools.miniperson.describe import attributes, describe

DOMAINS = ("campus", "station")


def _of_split(everyone, split):
    chosen = [person for person in everyone if person.pictures[0].pid > 0]
    wanted = ("query", "gallery") if split == "test" else (split,)
    return [person for person in chosen if person.pictures[0].split in wanted]


@pytest.fixture(scope="module", params=DOMAINS)
def everyone(request):
    return plan.people(plan.domain(request.param))


def test_sizes_and_disjoint_splits(everyone):
    sizes = {split: len(_of_split(everyone, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 160, "val": 40, "test": 100}
    pids = [person.pictures[0].pid for person in everyone if person.pictures[0].pid > 0]
    assert len(set(pids)) == 300
    for person in everyone:
        assert len({picture.pid for picture in person.pictures}) == 1
        assert {picture.split for picture in person.pictures} in ({"train"}, {"val"}, {"query", "gallery"}, {"gallery"})


def test_names_are_markets_and_unique(everyone):
    names = [picture.file_name for person in everyone for picture in person.pictures]
    assert len(set(names)) == len(names)
    pattern = re.compile(r"(bounding_box_train|query|bounding_box_test)/(-1|\d{4})_c(\d)s\d_\d{6}_\d\d\.jpg")
    for person in everyone:
        for picture in person.pictures:
            found = pattern.fullmatch(picture.file_name)
            assert found
            assert int(found[2]) == picture.pid
            assert int(found[3]) == picture.camid


def test_everyone_is_seen_by_several_cameras(everyone):
    people = [person for person in everyone if person.pictures[0].pid > 0]
    for person in people:
        assert 6 <= len(person.pictures) <= 8
        assert len({picture.camid for picture in person.pictures}) >= 4
    assert Counter(picture.camid for person in people for picture in person.pictures).keys() == set(range(1, 7))


def test_each_query_has_an_answer_on_another_camera(everyone):
    for person in _of_split(everyone, "test"):
        queries = [picture for picture in person.pictures if picture.split == "query"]
        gallery = [picture for picture in person.pictures if picture.split == "gallery"]
        assert 2 <= len(queries) <= 3
        assert len({picture.camid for picture in queries}) == len(queries)
        for query in queries:
            assert any(picture.camid != query.camid for picture in gallery)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_words_alone_do_not_identify(everyone, split):
    people = _of_split(everyone, split)
    counts = Counter(person.look.coarse for person in people)
    shared = sum(counts[person.look.coarse] > 1 for person in people) / len(people)
    assert shared >= 0.3
    # The people who share a description still differ in something that can be seen.
    assert len({person.look for person in people}) == len(people)


def test_distractors_and_junk(everyone):
    others = [picture for person in everyone for picture in person.pictures if picture.pid <= 0]
    assert {picture.split for picture in others} == {"gallery"}
    counts = Counter((picture.pid, picture.framing) for picture in others)
    assert counts == {(0, "good"): 120, (0, "bad"): 40, (-1, "junk"): 40}


def test_the_domains_share_nothing():
    campus, station = (plan.domain(name) for name in DOMAINS)
    assert campus.seed != station.seed
    assert not {clip.name for clip in campus.clips} & {clip.name for clip in station.clips}
    assert not {view.place for view in campus.viewpoints} & {view.place for view in station.viewpoints}
    assert not {view.sensor for view in campus.viewpoints} & {view.sensor for view in station.viewpoints}
    looks = [{person.look for person in plan.people(corpus)} for corpus in (campus, station)]
    assert not looks[0] & looks[1]


def test_the_same_seed_plans_the_same_and_another_seed_other_people():
    corpus = plan.domain("campus", 20)
    assert plan.people(corpus) == plan.people(corpus)
    other = plan.people(replace(corpus, seed=1))
    assert not {person.look for person in other} & {person.look for person in plan.people(corpus)}


def test_a_world_shares_nothing_with_either_domain():
    world = plan.world(60, cameras=3)
    people = plan.people(world)
    assert len(people) == 60
    domains = [plan.domain(name) for name in DOMAINS]
    worn = {person.look.outfit for corpus in domains for person in plan.people(corpus)}
    worn |= {look.outfit for corpus in domains for look in plan.extras(corpus)}
    assert not worn & {person.look.outfit for person in people}
    assert not worn & {look.outfit for look in plan.extras(world)}
    for corpus in domains:
        assert not {clip.name for clip in corpus.clips} & {clip.name for clip in world.clips}
        assert not {view.place for view in corpus.viewpoints} & {view.place for view in world.viewpoints}
        assert not {view.sensor for view in corpus.viewpoints} & {view.sensor for view in world.viewpoints}


def test_an_outfit_to_avoid_is_avoided():
    first = plan.domain("campus", 5)
    taken = plan.people(first)[0].look.outfit
    again = replace(first, avoid=first.avoid | {taken})
    assert taken not in {person.look.outfit for person in plan.people(again)}


def test_retaken_people_are_the_same_in_other_pictures():
    corpus = plan.domain("campus")
    before = {person.index: person for person in plan.people(corpus)}
    again = plan.retaken(corpus, 20)
    assert len(again) == 160
    for person in again:
        known = before[person.index]
        assert person.look == known.look
        assert len(person.pictures) == 20
        assert {picture.pid for picture in person.pictures} == {known.pictures[0].pid}
        assert {picture.split for picture in person.pictures} == {"train"}
        assert not {picture.number for picture in person.pictures} & {picture.number for picture in known.pictures}
        assert {picture.camid for picture in person.pictures} == set(range(1, 7))


def test_a_smaller_corpus_keeps_its_shares():
    small = plan.domain("station", 30)
    assert (small.train, small.val, small.test) == (16, 4, 10)


def test_captions_say_what_the_columns_say():
    for person in plan.people(plan.domain("campus", 60)):
        columns, caption = attributes(person.look), describe(person.look, "back", "walking")
        assert columns["upper_colour"] in caption
        assert columns["lower_colour"] in caption
        assert columns["shoe_colour"] in caption
        assert "seen from behind" in caption
        assert ("carrying" in caption) == (columns["bag"] != "none")
