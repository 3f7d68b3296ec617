"""Begin a stage and record how it ended: its command, its log, its records, the error of one that failed."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from diffreid_lightning.durations import format_duration
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.pipeline.earlier_outputs import Aside
from diffreid_lightning.pipeline.fingerprints import RECORDS, Record, begun_file, output_hash, record_file, stage_key
from diffreid_lightning.pipeline.graph import Chain, Stage
from diffreid_lightning.pipeline.job_process import describe_ending
from diffreid_lightning.pipeline.stage_process import last_words
from diffreid_lightning.storage.atomic import UNFINISHED, describe_existing

#: one of these is in the folder of every stage that has begun
_OF_STAGES = (
    "fit-*", "predict-*", "test-*", "validate-*", "metadata.parquet", "stage.json", "diff_person", *UNFINISHED,
)  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """A stage that has begun.

    Args:
        chain: the chain.
        stage: the stage.
        key: hash of its inputs.
        ancestors: output hash of every stage it goes back to, by name.
        earlier: seconds of the interrupted attempts that it continues.
        started: when, by the monotonic clock.
    """

    chain: Chain
    stage: Stage
    key: str
    ancestors: dict[str, str]
    earlier: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, chain: Chain, stage: Stage, aside: Aside, console: Console) -> Attempt:
        """Record that a stage begins, and put aside what it made under other settings.

        Args:
            chain: the chain.
            stage: the stage; those it reads are finished.
            aside: takes earlier outputs.
            console: says where these are then.

        Raises:
            RunError: they cannot be put aside.
        """
        outputs, ancestors = read_outputs(chain, stage)
        key = stage_key(chain, stage, outputs)
        begun = Record.read(begun_file(chain.root, stage.name))
        earlier = 0.0
        if begun is not None and begun.key == key and can_go_on(chain, stage):
            earlier = _seconds_of_interrupted(chain, stage, begun)
        elif (folder := chain.root / stage.name).exists():
            _refuse_foreign(folder, is_recorded=begun is not None or record_file(chain.root, stage.name).exists())
            console.print(f"what was made here before is kept: {aside.put(stage.name)}", soft_wrap=True)
        record_file(chain.root, stage.name).unlink(missing_ok=True)
        Record(key, "", earlier, ancestors).write(begun_file(chain.root, stage.name))
        return cls(chain, stage, key, ancestors, earlier)

    @property
    def log(self) -> Path:
        """Return the file for its output."""
        return self.chain.root / RECORDS / f"{self.stage.name}.log"

    def words(self) -> list[str]:
        """Return the command that continues the stage, or starts it."""
        words = list(self.stage.words)
        if words[0] == "fit" and can_go_on(self.chain, self.stage):
            words += ["--ckpt_path", str(_fit(self.chain, self.stage))]
        return words

    def end(self, code: int) -> str:
        """Record that the command has ended, and return a line that says so.

        Args:
            code: its exit code, negative where a signal ended it.

        Raises:
            UserError: it refused its input.
            RunError: it failed, or has not made what it should.
        """
        root, stage = self.chain.root, self.stage
        if code:
            raise self._failed(code)
        output = output_hash(root / stage.name, stage.makes)
        if output is None:
            missing = [name for name in stage.makes if not (root / stage.name / name).exists()]
            raise RunError(
                f"Stage {stage.name!r} ended without making {', '.join(missing)}.",
                looked_for=", ".join(str(root / stage.name / name) for name in missing),
                found=f"its log: {self.log}",
                remedy="give its config the folder the chain expects",
            )
        seconds = self.earlier + time.monotonic() - self.started
        Record(self.key, output, round(seconds, 1), self.ancestors).write(record_file(root, stage.name))
        begun_file(root, stage.name).unlink(missing_ok=True)
        return f"{stage.name}: {format_duration(seconds)}"

    def _failed(self, code: int) -> RunError | UserError:
        kind = UserError if code == 2 else RunError
        return kind(
            f"Stage {self.stage.name!r} {describe_ending(code)}.",
            found=f"{last_words(self.log)}\n  (log: {self.log})",
            remedy=f"mend it and run the chain again: it goes on here. This stage alone:\n"
            f"    {variables(self.chain)} python -m diffreid_lightning {shlex.join(self.words())}",
        )


def _refuse_foreign(folder: Path, is_recorded: bool) -> None:
    """Refuse to move a folder of somebody else's, such as a dataset in a root that is no chain's."""
    if (
        not is_recorded
        and folder.is_dir()
        and any(folder.iterdir())
        and not any(any(folder.glob(pattern)) for pattern in _OF_STAGES)
    ):
        raise UserError(
            f"{folder} is in the place of a stage's output, and no stage has made it.",
            looked_for=f"no such folder, or one with {', '.join(_OF_STAGES)}",
            found=describe_existing(folder),
            remedy="give another --root, or move that folder yourself",
        )


def read_outputs(chain: Chain, stage: Stage) -> tuple[dict[str, str], dict[str, str]]:
    """Return the output hashes of the finished stages that a stage reads, and of all its ancestors."""
    outputs, ancestors = {}, {}
    for name in stage.reads:
        record = Record.read(record_file(chain.root, name))
        assert record is not None
        outputs[name] = record.output
        ancestors.update(record.ancestors)
    return outputs, {**ancestors, **outputs}


def can_go_on(chain: Chain, stage: Stage) -> bool:
    """Return true if an interrupted stage can continue: a fit needs its first checkpoint."""
    return stage.words[0] != "fit" or (_fit(chain, stage) / "checkpoints" / "last.ckpt").is_file()


def _seconds_of_interrupted(chain: Chain, stage: Stage, begun: Record) -> float:
    """Return the seconds of the attempts so far, each until the last file that it has left: a kill notes nothing."""
    since = begun_file(chain.root, stage.name).stat().st_mtime
    files = (file for file in (chain.root / stage.name).rglob("*") if file.is_file())
    return round(begun.seconds + max([0.0, *(file.stat().st_mtime - since for file in files)]), 1)


def variables(chain: Chain) -> str:
    """Return the chain's variables as shell assignments."""
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(chain.environment.items()))


def _fit(chain: Chain, stage: Stage) -> Path:
    return chain.root / stage.name / stage.run_folder
