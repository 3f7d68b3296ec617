"""Concatenate manifests, relabeling identities and cameras; images stay in each manifest's root."""

from __future__ import annotations

import itertools
import json
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from diffreid_lightning.datasets import PersonDataset, PersonFolder
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest

IdentityKey = tuple[str, str, int]


@dataclass(frozen=True)
class ConcatRows:
    """Rows of one or more manifests, in order.

    Args:
        roots: the image roots of the manifests.
        root_of: (N,) index of each row's root.
        file_names: (N,) names inside the roots; an Arrow array, to avoid a million Python objects.
        labels: (N,) identity numbers from 0, in the sorted order of ``identities``.
        identities: the (source, partition, pid) of each label.
        camids: (N,) camera numbers from 0, one per (source, real or generated, camera), so that a generated image
            never shares a camera with a real one.
        raw_camids: (N,) camera numbers of the manifests.
        generated: (N,) mask of the generated rows.
    """

    roots: tuple[ImageRoot, ...]
    root_of: npt.NDArray[np.int64]
    file_names: pa.Array
    labels: npt.NDArray[np.int64]
    identities: tuple[IdentityKey, ...]
    camids: npt.NDArray[np.int64]
    raw_camids: npt.NDArray[np.int64]
    generated: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, row: int) -> Image.Image:
        """Open the image of a row as RGB.

        Raises:
            UserError: the file is missing, empty or not an image.
        """
        return self.roots[int(self.root_of[row])].image(self.file_names[row].as_py())


def refuse_clashing_sources(
    manifests: Sequence[Manifest], datasets: Sequence[PersonDataset], option: str = "--data.train"
) -> None:
    """Refuse two folders of real images with a common source and person number.

    Args:
        manifests: the rows.
        datasets: the dataset of each manifest.
        option: the setting that names them, for the error.

    Raises:
        UserError: two manifests with different images share a source and an identity in it.
    """
    seen: dict[IdentityKey, Manifest] = {}
    for place, manifest in enumerate(manifests):
        real = manifest.filter(np.isin(np.asarray(manifest.numpy("split")), ["train", "val"]))
        for key in real.identities()[1]:
            other = seen.setdefault(key, manifest)
            if other.root != manifest.root:
                raise UserError(
                    f"Two datasets have the same source {key[0]!r}, and both have a person {key[2]}.",
                    found=f"{other.root} and {manifest.root}",
                    remedy=_suggest_source(datasets, place, key[0], option),
                )


def _suggest_source(datasets: Sequence[PersonDataset], place: int, source: str, option: str) -> str:
    """Return how to give another source to the dataset at ``place``, or to the first one that accepts it."""
    configs = [dataset.config() for dataset in datasets]
    taken = {dataset.source for dataset in datasets}
    for other in (place, *range(len(datasets))):
        name = next(f"{source}_{number}" for number in itertools.count(2) if f"{source}_{number}" not in taken)
        try:
            configs[other] = datasets[other].config(source=name)
        except TypeError:  # a manifest's rows keep their sources
            continue
        return (
            f"if they are different people, rename one source: {option} {shlex.quote(json.dumps(configs))}\n"
            "      if they are the same images, give one of the two"
        )
    return "give one of the two, or create one of them again from a dataset with another source"


def warn_of_shared_default_source(manifests: Sequence[Manifest]) -> None:
    """Warn if generated images in two places share people of PersonFolder's default source.

    In a benchmark, person 7 is one person, whatever the generator; "person_folder" may be two different folders.
    """
    shared: dict[tuple[str, int], set[str]] = {}
    for manifest in manifests:
        made = pc.and_(
            pc.equal(manifest.table["split"], "generated"), pc.equal(manifest.table["source"], PersonFolder.source)
        )
        people = manifest.table.select(["partition", "pid"]).filter(made).group_by(["partition", "pid"]).aggregate([])
        for person in people.to_pylist():
            shared.setdefault((person["partition"], person["pid"]), set()).add(str(manifest.root))
    several = [roots for roots in shared.values() if len(roots) > 1]
    if several:
        warnings.warn(
            f"Generated images of {len(several)} people of source {PersonFolder.source!r} come from several places "
            f"({', '.join(sorted(set().union(*several)))}); they count as the same people. If they are not, give the "
            "real folders different sources before generating: PersonFolder with source: NAME.",
            stacklevel=2,
        )


def concatenate(manifests: Sequence[Manifest]) -> ConcatRows:
    """Concatenate manifests.

    Two rows have the same identity if and only if source, partition and pid agree, also across manifests. Pids and
    camera ids may recur in other sources, and camera ids in generated images.
    """
    numbered = [manifest.identities() for manifest in manifests]
    identities = sorted({key for _, keys in numbered for key in keys})
    position = {key: number for number, key in enumerate(identities)}
    labels = [np.asarray([position[key] for key in keys], dtype=np.int64)[own] for own, keys in numbered if len(own)]
    sources = pa.chunked_array([chunk for m in manifests for chunk in m.table["source"].chunks], pa.string())
    distinct = sorted(pc.unique(sources).to_pylist())
    source_numbers = np.asarray(pc.index_in(sources, value_set=pa.array(distinct, pa.string())), dtype=np.int64)
    generated = np.concatenate([np.asarray(pc.equal(m.table["split"], "generated")) for m in manifests])
    raw_camids = np.concatenate([manifest.numpy("camid") for manifest in manifests])
    cameras, camera_numbers = np.unique(raw_camids, return_inverse=True)
    # One combined number: sorting matrix rows takes ten times as long.
    combined = (2 * source_numbers + generated) * max(len(cameras), 1) + camera_numbers.reshape(-1)
    _, camids = np.unique(combined, return_inverse=True)
    names = [manifest.table.column("file_name").combine_chunks() for manifest in manifests]
    return ConcatRows(
        roots=tuple(manifest.images for manifest in manifests),
        root_of=np.repeat(np.arange(len(manifests)), [len(manifest) for manifest in manifests]),
        file_names=pa.concat_arrays([pa.array(name) if isinstance(name, pa.ChunkedArray) else name for name in names]),
        labels=np.concatenate(labels) if labels else np.empty(0, dtype=np.int64),
        identities=tuple(identities),
        camids=camids.reshape(-1).astype(np.int64),
        raw_camids=raw_camids.astype(np.int64),
        generated=generated.astype(bool),
    )
