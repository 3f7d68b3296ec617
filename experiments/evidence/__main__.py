"""Does the method work? Ways of starting a Re-ID network, compared on MiniPerson.

    python -m experiments.evidence --pipeline PIPELINE --world WORLD --choose    # freezes the settings, on val
    python -m experiments.evidence --pipeline PIPELINE --world WORLD             # the tables

Step 1 chooses threshold, mix, lambda and schedules on the held-out identities at 30 % few-shot; query and gallery are
not read. Step 2 runs every row with every seed under those settings; each run reads query and gallery once, at its end.
Everything is a command of the package and is kept in the work folder: a run that is stopped goes on where it was, and a
row that is finished is skipped. Changes of the code are not seen: give another work folder for them. Machines of one
kind share the work by ``--rows`` and ``--earlier FOLDER``: the choice (``settings.json``) and the rows
(``outcomes.json``) that another's work folder holds are taken from there.

Needs the extras ``imagenet`` and ``benchmarks``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.pipeline_io import PROVENANCE
from diffreid_lightning.errors import DiffReIDError, UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.provenance import find_manifest_hashes, read_provenance
from diffreid_lightning.pipeline.runner import lock_folder
from experiments.evidence import settings as frozen
from experiments.evidence import tables
from experiments.evidence.ancestry import Training, refuse_leaks, refuse_strange_training
from experiments.evidence.lab import FIRST_RUN, Lab
from experiments.evidence.outcomes import FILE as OUTCOMES
from experiments.evidence.outcomes import Kept, Ledger, Outcome, read_outcome, read_outcomes, val_curve, write_outcomes
from experiments.evidence.plan import Plan
from experiments.evidence.rows import FEW, IMAGENET, ROWS, TABLES, WORLD, Data, Row, Work
from experiments.evidence.settings import Question, Settings
from experiments.evidence.stages import Share, Stages, Variant, configs_key, named
from experiments.instruments.devices import device_name
from experiments.instruments.report import write_json

Result = TypeVar("Result")
_TAKEN = "taken.json"
_DEVICE = "device.json"
_SHARES = {named(share): share for share in TABLES}


class Evidence:
    """The whole comparison in a work folder.

    Args:
        plan: sizes.
        pipeline: folder of the text-to-image model.
        world: folder of the rendered corpus; None where the one row that is trained on it is not asked for.
        work: folder for everything that is kept.
        jobs: commands at once, each with one thread.
    """

    def __init__(self, plan: Plan, pipeline: Path, world: Path | None, work: Path, jobs: int) -> None:
        self.plan = plan
        base = locate_pipeline(str(pipeline))
        self.learnt = tuple(find_manifest_hashes(read_provenance(base / PROVENANCE)))  # what every row has alike
        self.inputs = {
            "pipeline": weights_hash(base),
            "world": " ".join(self.learnt) if world is None else Manifest.read(world).content_hash,
        }
        places = {str(base): self.inputs["pipeline"]}
        self.lab = Lab(work, places if world is None else {**places, str(world): self.inputs["world"]})
        self.stages = Stages(self.lab, plan, base)
        self.world = world
        self.jobs = jobs

    @property
    def settings_file(self) -> Path:
        """File that holds the chosen settings."""
        return self.lab.work / frozen.FILE

    @property
    def made_for(self) -> dict[str, Any]:
        """Return the inputs that a choice was made for."""
        return {**self.inputs, "sizes": self.plan.sizes, "configs": configs_key()}

    def take(self, folder: Path) -> None:
        """Go on from another machine's work folder, or what was kept of it; what is taken stays in this one.

        Raises:
            UserError: it was made for other inputs, sizes or settings, or cannot be read.
        """
        if not self.settings_file.exists():
            frozen.save(self.settings_file, *frozen.load(folder / frozen.FILE, self.made_for), self.made_for)
        taken = self.taken.and_also(read_outcomes(folder / OUTCOMES, self.outcomes_made_for))
        write_outcomes(self.lab.work / _TAKEN, self.outcomes_made_for, taken)

    @property
    def taken(self) -> Kept:
        """Return the outcomes taken from other machines."""
        return read_outcomes(self.lab.work / _TAKEN, self.outcomes_made_for)

    def claim(self) -> None:
        """Keep the work folder for one kind of device: the names of steps do not tell what they were run on.

        Raises:
            UserError: it holds steps that were run on another.
        """
        file, here = self.lab.work / _DEVICE, device_name()
        if not file.exists():
            write_json(file, {"device": here})
        before = json.loads(file.read_text(encoding="utf-8"))["device"]
        if before != here:
            raise UserError(
                f"What lies in {self.lab.work} was run on another device.",
                looked_for=here,
                found=before,
                remedy="give another --work; CUDA_VISIBLE_DEVICES= keeps to the CPU",
            )

    @property
    def outcomes_made_for(self) -> dict[str, Any]:
        """Return the inputs that outcomes were measured for."""
        chosen, _ = frozen.load(self.settings_file, self.made_for)
        return {**self.made_for, "settings": asdict(chosen), "device": device_name()}

    def choose(self, questions: Sequence[Question] = frozen.QUESTIONS, start: Settings | None = None) -> None:
        """Choose the settings on the held-out identities, and write them down."""
        chosen, trials = frozen.search(start or Settings(), questions, self.measure)
        frozen.save(self.settings_file, chosen, trials, self.made_for)
        print(tables.choices_table(trials, self.plan))

    def measure(self, label: str, tried: Sequence[Settings]) -> list[float]:
        """Return a row's mean final mAP on the held-out identities for each of several settings."""

        def final(settings: Settings, seed: int) -> float:
            work = self._work(settings, self.plan.choice_images)
            return val_curve(ROWS[label].tuned(work, FEW, seed, test=False))[-1][1]

        seeds = self.plan.choice_seeds
        scores = self.at_once(functools.partial(final, settings, seed) for settings in tried for seed in seeds)
        return [statistics.fmean(scores[start : start + len(seeds)]) for start in range(0, len(scores), len(seeds))]

    def run(self, wanted: dict[Share, tuple[str, ...]] | None = None) -> dict[Share, tables.Outcomes]:
        """Run rows under the chosen settings and read what they came to.

        Args:
            wanted: labels by share; None takes all.
        """
        wanted = TABLES if wanted is None else wanted
        chosen, _ = frozen.load(self.settings_file, self.made_for)
        work = self._work(chosen, self.plan.images_per_identity)
        runs = [(share, label, seed) for seed in self.plan.seeds for share in wanted for label in wanted[share]]
        taken = self.taken
        missing = [run for run in runs if run not in taken.outcomes]
        if self.world is None and any(label == WORLD for _, label, _ in missing):
            raise UserError(f"The row {WORLD!r} is trained on the rendered corpus.", looked_for="--world")
        # 1. What all seeds of a row share, and whether it was made of what the row may see.
        #    Those that nothing is generated for yet go first, so that commands wait for each other as little as may be.
        labeled = ((share, ROWS[label]) for share, label, _ in missing)
        shared = list(dict.fromkeys((row.data, row.variant, share) for share, row in labeled if row.data is not None))
        first = {(variant, share): (data, variant, share) for data, variant, share in reversed(shared)}
        ordered = dict.fromkeys([*reversed(first.values()), *shared])
        self.at_once(functools.partial(self._made, work, *each) for each in ordered)
        # 2. The rows, all of one seed before the next.
        file, made_for = self.lab.work / OUTCOMES, self.outcomes_made_for
        kept = Ledger(file, made_for, read_outcomes(file, made_for).and_also(taken), self.lab.seconds)
        kept.write()
        found = self.at_once(functools.partial(self._row, work, kept, *run) for run in missing)
        by_run = {**taken.outcomes, **dict(zip(missing, found, strict=True))}
        return {
            share: {label: [by_run[share, label, seed] for seed in self.plan.seeds] for label in labels}
            for share, labels in wanted.items()
        }

    def _made(self, work: Work, data: Data, variant: Variant, share: Share) -> None:
        """Make what a row is pre-trained on, and follow it back to the training images of its subset."""
        stages, weight = self.stages, work.settings.prior_weight
        made = data(work, share)
        notes = [stages.scorer(share) / "scorer.json"]
        if variant != "frozen base":
            notes.append(stages.personalized(share, variant, weight) / "provenance.json")
        ancestors = [stages.subset(share), stages.captioned(share)]
        ancestors += [make(share, variant, weight, work.images) for make in (stages.generated, stages.scored)]
        refuse_leaks(made, ancestors, notes, Manifest.read(stages.subset(share)), self.learnt)

    def report(self, outcomes: dict[Share, tables.Outcomes]) -> str:
        """The tables, which are also kept."""
        _, trials = frozen.load(self.settings_file, self.made_for)
        parts = [tables.rows_table(self._subset_in_words(share), found) for share, found in outcomes.items()]
        parts += [tables.convergence_table(outcomes[FEW])] if FEW in outcomes else []
        seconds = {**self.taken.seconds, **self.lab.seconds()}
        parts += [tables.goals_table(outcomes), tables.choices_table(trials, self.plan), tables.cost_table(seconds)]
        text = "\n".join(parts)
        (self.lab.work / "tables.md").write_text(text + "\n", encoding="utf-8")
        return text

    def _subset_in_words(self, share: Share) -> str:
        rows = Manifest.read(self.stages.subset(share))
        images, people = len(rows), len(rows.identities()[1])
        words = f"{images:,} training images of {people:,} people"
        if share is not None:
            words += f" ({share:.0%} of each person's, at least one)"
        return words + (": one of each, so its scorer cannot be calibrated" if images == people else "")

    def _work(self, settings: Settings, images: int) -> Work:
        return Work(self.stages, settings, self.world, images)

    def _row(self, work: Work, kept: Ledger, share: Share, label: str, seed: int) -> Outcome:
        row = ROWS[label]
        step = row.tuned(work, share, seed, test=True)
        refuse_strange_training(self._trainings(work, row, share, seed, step))
        found = read_outcome(step)
        kept.add((share, label, seed), found)
        return found

    def _trainings(self, work: Work, row: Row, share: Share, seed: int, step: Path) -> list[Training]:
        """Say what the trainings of a row are: its fine-tuning, and the pre-training before it where there is one."""
        subset = self.stages.source(share).manifest().content_hash
        start = row.start(work, share, seed)
        tuned = step / FIRST_RUN / "backbone"
        if start is None or start == IMAGENET:
            return [Training(tuned, [subset], start)]
        shown = [self.inputs["world"] if row.label == WORLD else subset]
        if row.data is not None:
            mixed = work.settings.generated_share is not None
            shown = [Manifest.read(row.data(work, share)).content_hash, *(shown if mixed else [])]
        return [Training(tuned, [subset], Path(start)), Training(Path(start), shown, row.init)]

    def at_once(self, calls: Iterable[Callable[[], Result]]) -> list[Result]:
        """Make calls, several at once; the first that fails ends it once the running ones are through."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(call) for call in calls]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Ways of starting a Re-ID network, compared on MiniPerson.")
    parser.add_argument("--pipeline", type=Path, required=True, help="folder of the text-to-image model")
    parser.add_argument("--world", type=Path, help=f"the rendered corpus that it learnt from, for the row '{WORLD}'")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/experiments/evidence"), help="folder for all that is kept"
    )
    parser.add_argument("--choose", action="store_true", help="choose the settings on the held-out identities")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="only these")
    parser.add_argument("--shares", nargs="+", choices=_SHARES, default=list(_SHARES), help="only with so many images")
    parser.add_argument("--earlier", type=Path, help="work folder of another machine, or what was kept of it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="commands at once, of one thread each")
    given = parser.parse_args(args)
    shares = [_SHARES[name] for name in given.shares]
    asked = {share: tuple(row for row in TABLES[share] if row in given.rows) for share in shares}
    wanted = {share: rows for share, rows in asked.items() if rows}
    try:
        world = given.world and given.world.resolve()
        evidence = Evidence(Plan(), given.pipeline, world, given.work, given.jobs)
        with lock_folder(given.work):
            evidence.claim()
            if given.earlier is not None:
                evidence.take(given.earlier)
            if given.choose:
                evidence.choose()
            else:
                print(evidence.report(evidence.run(wanted)))
    except DiffReIDError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
