"""Measure manifest operations at the paper's scale: rows of several sources whose person numbers clash.

    python -m benchmarks.manifest_scale                 # 1,000,000 rows
    python -m benchmarks.manifest_scale --rows 100000

The rows are synthetic (no image is read): real people of four sources, all numbered from 0, and images generated of
them with prompts, attributes, seeds and scores, as generation and scoring write them. Each operation runs in turn in
one process; memory is the largest resident set so far (Linux only), the limit of 2 GB is checked at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from diffreid_lightning.datasets.concat import ConcatRows, concatenate
from diffreid_lightning.datasets.holdout import hold_out_identities, trainable_rows
from diffreid_lightning.datasets.samplers import PKSampler
from diffreid_lightning.filtering.rules import (
    IdentityQuantile,
    NearDuplicates,
    Selection,
    ThresholdWithFloorAndCap,
    select_rows,
)
from diffreid_lightning.filtering.statistics import SelectionReport, summarize
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.report import table

SOURCES = ("cuhk03np", "dukemtmcreid", "market1501", "msmt17")
PEOPLE = 5183
GENERATED_SHARE = 0.9
LIMIT_GB = 2.0
_VIEWS, _LIGHTS, _PLACES = ("front", "back", "left", "right"), ("by day", "at night"), ("in a street", "in a station")
_COLORS = ("red", "blue", "black", "white", "green", "grey")

Result = TypeVar("Result")


def synthetic(rows: int, generated: bool, folder: Path) -> Manifest:
    """Draw rows: people of all sources are numbered from 0, so a number means a different person in each."""
    rng = np.random.default_rng(int(generated))
    source = rng.integers(len(SOURCES), size=rows)
    pid = rng.integers(PEOPLE // len(SOURCES), size=rows)
    whose = zip(source, pid, range(rows), strict=True)
    names = [f"images/{SOURCES[s]}/{p:04d}/{p:04d}_c7s1_{n:06d}_00.jpg" for s, p, n in whose]
    columns: dict[str, Any] = {
        "file_name": pa.array(names),
        "source": pa.array(SOURCES).take(pa.array(source)),
        "partition": "train",
        "pid": pid,
        "camid": 16 if generated else rng.integers(1, 16, size=rows),
        "split": "generated" if generated else "train",
        "role": "identity",
    }
    if generated:
        views, lights, places = (rng.integers(len(words), size=rows) for words in (_VIEWS, _LIGHTS, _PLACES))
        words = zip(source, pid, views, lights, places, strict=True)
        columns |= {
            "source_pid": pid,
            "prompt": [
                f"a photo of <{SOURCES[s]}-{p:04d}>, a woman wearing a {_COLORS[p % 6]} top and {_COLORS[p % 5]} "
                f"trousers, seen from the {_VIEWS[v]}, {_PLACES[o]}, {_LIGHTS[w]}"
                for s, p, v, w, o in words
            ],
            "attributes": pa.array(
                [f'{{"light": "{w}", "place": "{o}", "view": "{v}"}}' for v in _VIEWS for w in _LIGHTS for o in _PLACES]
            ).take(pa.array((views * len(_LIGHTS) + lights) * len(_PLACES) + places)),
            "seed": rng.integers(2**62, size=rows),
            "generator": "f" * 64,
            "confidence": rng.random(rows),
            "similarity": rng.uniform(-1, 1, rows),
            "margin": rng.uniform(-1, 1, rows),
            "consistency": rng.random(rows),
            "real_distance": rng.uniform(0, 0.3, rows),
        }
    return Manifest.from_columns(folder / ("generated" if generated else "real"), columns)


class Clock:
    """Times operations and notes the memory after each."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def __call__(self, what: str, run: Callable[[], Result]) -> Result:
        """Run one operation."""
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
        self.lines.append((what, f"{seconds:.2f}", f"{peak_gb():.2f}"))
        print(f"{what}: {seconds:.2f} s, {peak_gb():.2f} GB", file=sys.stderr, flush=True)
        return result


def peak_gb() -> float:
    """Largest resident set of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # counted in KiB


def write_synthetic(rows: int, folder: Path) -> None:
    """Make the rows and write them; in a process of its own, whose memory is not counted."""
    made = int(rows * GENERATED_SHARE)
    for count, generated in ((rows - made, False), (made, True)):
        manifest = synthetic(count, generated, folder)
        manifest.write(manifest.root)


def select(manifest: Manifest) -> Selection:
    """Apply every kind of rule that needs no image."""
    selection = Selection(manifest, lambda: np.empty((0, 0), np.uint8))
    rules = [NearDuplicates(real=0.05, generated=None), IdentityQuantile(0.2), ThresholdWithFloorAndCap(0.4, 2, 150)]
    select_rows(selection, rules)
    return selection


def draw_epoch(rows: ConcatRows) -> int:
    """Draw one epoch of P×K batches, half of each generated."""
    sampler = PKSampler(rows.labels, 64, 4, generated_share=0.5)  # type: ignore[arg-type]
    sampler.generated = rows.generated
    return sum(1 for _ in sampler)


def make_dataset(clock: Clock, folder: Path) -> tuple[Manifest, SelectionReport]:
    """Read the generated rows and choose among them; what is not chosen is forgotten on return."""
    generated = clock("read and validate", lambda: Manifest.read(folder / "generated"))
    clock("content hash", lambda: generated.content_hash)
    clock("write", lambda: generated.write(folder / "generated" / "again.parquet"))
    clock("number the identities", generated.identities)
    selection = clock("select", lambda: select(generated))
    report = clock("report", lambda: summarize(selection))
    marked = clock("keep", lambda: generated.with_columns({"kept": selection.kept, "reason": selection.reasons}))
    return clock("filter", lambda: marked.filter(selection.kept)), report


def joined_rows(clock: Clock, real: Manifest, kept: Manifest) -> ConcatRows:
    """ConcatRows real and chosen rows, nobody held out among them."""
    barred = clock("hold out identities", lambda: hold_out_identities(real, 0.1, 0))
    held_out = set(real.filter(barred).identities()[1])
    parts = clock("trainable rows", lambda: [m.filter(trainable_rows(m, held_out)) for m in (real, kept)])
    return clock("chain and relabel", lambda: concatenate(parts))


def main() -> None:
    """Make the rows, run every operation, print the table."""
    parser = argparse.ArgumentParser(description="Time and memory of manifest operations.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maker = multiprocessing.get_context("spawn").Process(target=write_synthetic, args=(rows, folder))
        maker.start()
        maker.join()
        print(f"Python and libraries: {peak_gb():.2f} GB", file=sys.stderr)
        kept, report = make_dataset(clock, folder)
        joined = joined_rows(clock, Manifest.read(folder / "real"), kept)
        draws = clock("draw an epoch of mixed batches", lambda: draw_epoch(joined))
    people = len(joined.identities)
    print(
        f"\n{rows:,} rows, {report.kept:,} kept; chained: {len(joined):,} images of {people:,} people; {draws:,} draws"
    )
    print(table("Manifest operations", ("operation", "seconds", "largest memory so far, GB"), clock.lines))
    if peak_gb() > LIMIT_GB:
        sys.exit(f"memory exceeds {LIMIT_GB} GB")


if __name__ == "__main__":
    main()
