"""The archives that ship with the package."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from collections import Counter

import numpy as np
import pytest

from diffreid_lightning.datasets.miniperson.dataset import MiniPerson
from diffreid_lightning.errors import UserError


@pytest.fixture(scope="module", params=["campus", "station"])
def dataset(request):
    return MiniPerson(request.param, strict=True)


def test_the_counts_are_as_published(dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = dataset.manifest()
    assert dataset.differences() == {}
    assert dataset.junk == 40
    assert set(manifest.table["source"].to_pylist()) == {f"miniperson_{dataset.domain}"}


def _columns(dataset, role=None):
    """The manifest's columns as arrays, of all rows or of one role."""
    manifest = dataset.manifest()
    if role is not None:
        manifest = manifest.filter(manifest.numpy("role") == role)
    return {name: manifest.numpy(name) for name in manifest.columns if name != "caption"}


def _by_person(columns, name):
    """The distinct values of a column for each person."""
    return {pid: set(columns[name][columns["pid"] == pid]) for pid in np.unique(columns["pid"])}


def test_no_person_is_in_two_splits(dataset):
    splits = _by_person(_columns(dataset, "identity"), "split").values()
    assert all(split in ({"train"}, {"val"}, {"gallery", "query"}) for split in splits)
    assert set(_columns(dataset, "distractor")["pid"]) == {0}
    assert (_columns(dataset)["pid"] >= 0).all()


def test_each_query_can_be_answered(dataset):
    columns = _columns(dataset)
    gallery = columns["split"] == "gallery"
    for row in np.flatnonzero(columns["split"] == "query"):
        same = gallery & (columns["pid"] == columns["pid"][row])
        assert (same & (columns["camid"] != columns["camid"][row])).any()


def test_words_alone_do_not_identify(dataset):
    columns = _columns(dataset, "identity")
    _, first = np.unique(columns["pid"], return_index=True)
    for group in (["train"], ["val"], ["query", "gallery"]):
        rows = [row for row in first if columns["split"][row] in group]
        words = [tuple(columns[name][row] for name in ("sex", "upper_colour", "lower_colour")) for row in rows]
        counts = Counter(words)
        assert np.mean([counts[word] > 1 for word in words]) >= 0.3


def test_attributes_belong_to_the_person_and_views_vary(dataset):
    columns = _columns(dataset, "identity")
    for name in ("sex", "age", "upper_colour", "upper_pattern", "lower", "shoes", "hair_cut", "hat", "bag"):
        assert all(len(values) == 1 for values in _by_person(columns, name).values()), name
    assert np.mean([len(values) for values in _by_person(columns, "view").values()]) > 2
    assert min(len(values) for values in _by_person(columns, "camid").values()) >= 4
    assert len(set(columns["upper_colour"])) >= 11
    assert 0.05 < columns["occluded"].mean() < 0.5


def test_every_image_opens_in_its_size(dataset):
    manifest = dataset.manifest()
    names = manifest.table["file_name"].to_pylist()
    for name in names[::37]:
        image = manifest.images.image(name)
        assert image.size == (64, 128)
        assert np.asarray(image).std() > 8
    assert set(names) <= set(manifest.images.names())


def test_the_archive_is_uncompressed_and_small(dataset):
    assert dataset.root.stat().st_size < 6_000_000
    with zipfile.ZipFile(dataset.root) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_colors_of_the_picture_do_not_identify(dataset):
    """Matching color histograms must stay poor, or the benchmark would measure nothing but color."""
    manifest = dataset.manifest()
    histograms = []
    for name in manifest.numpy("file_name"):
        pixels = np.asarray(manifest.images.image(name)).reshape(-1, 3) // 32
        counts = np.bincount(pixels @ np.array([64, 8, 1]), minlength=512).astype(np.float32)
        histograms.append(np.sqrt(counts / counts.sum()))
    features = np.stack(histograms)
    query, gallery = (manifest.numpy("split") == split for split in ("query", "gallery"))
    similarity = features[query] @ features[gallery].T
    pid, camera = manifest.numpy("pid"), manifest.numpy("camid")
    precisions = []
    for row, (person, seen_by) in enumerate(zip(pid[query], camera[query], strict=True)):
        kept = ~((pid[gallery] == person) & (camera[gallery] == seen_by))
        order = np.argsort(-similarity[row][kept], kind="stable")
        hits = np.flatnonzero((pid[gallery][kept] == person)[order])
        precisions.append(np.mean((np.arange(len(hits)) + 1) / (hits + 1)))
    assert np.mean(precisions) < 0.2


def test_reading_needs_no_body_model():
    program = (
        "import sys; sys.modules['anny'] = None\n"
        "from diffreid_lightning.datasets.miniperson.dataset import MiniPerson\n"
        "print(len(MiniPerson('station').manifest()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 2000


def test_a_wrong_domain_is_said_so():
    with pytest.raises(UserError, match="airport"):
        MiniPerson("airport")  # type: ignore[arg-type]
