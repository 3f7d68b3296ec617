"""Commands that are run once: what is finished is kept in a work folder, and skipped by the next run."""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffreid_lightning.config_files import load_layers, split_config_flags
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.pipeline.fingerprints import vocabulary_hashes
from diffreid_lightning.pipeline.stage_process import last_words, run_logged
from experiments.instruments.report import write_json

#: stands in a command for the folder of its step
OUT = "@out"
#: the run of a step's fit; of others that were tried by hand nothing is read
FIRST_RUN = "fit-001"
_DONE = "done.json"
_STEPS = "steps"


class Lab:
    """Runs commands of the package, each in a folder that is named by what it does.

    A step is known by its words, the contents of the configs they name and of the one that lies below these, and those
    of the user's own vocabularies; other words are other work in another folder. A step that was interrupted goes on in
    its folder. Changes of the code are not seen.

    Several threads may ask for steps; one that another thread is at is waited for.

    Args:
        work: the folder everything lies in.
        inputs: content hash of each path from elsewhere that words may name.
        threads: of every operation within a command.
    """

    def __init__(self, work: Path, inputs: Mapping[str, str], threads: int = 1) -> None:
        self.work = work.resolve()
        self._stand_ins = {**inputs, str(self.work): ""}
        self._environment = {
            "DIFFREID_ROOT": str(self.work),  # caches
            "OMP_NUM_THREADS": str(threads),
            "WANDB_MODE": "disabled",
        }
        self._locks: dict[Path, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def step(self, name: str, words: Sequence[str]) -> Path:
        """Run a command unless it has been run.

        Args:
            name: begins the folder's name.
            words: after ``python -m diffreid_lightning``; ``@out`` stands for the step's folder.

        Returns:
            The folder.

        Raises:
            UserError: the command refused its input.
            RunError: it failed.
        """
        folder = self.work / _STEPS / f"{name}-{self.key(words)}"
        with self._guard:
            lock = self._locks[folder]
        with lock:
            if not (folder / _DONE).is_file():
                self._run(name, [word.replace(OUT, str(folder)) for word in words], folder)
        return folder

    def key(self, words: Sequence[str]) -> str:
        """Hash what a command does: 10 hexadecimal digits that do not depend on where anything lies."""
        names, rest = split_config_flags(words)
        plain = [self._without_places(word) for word in rest]
        configs = load_layers(words[0], names)
        made_of = [plain, configs, vocabulary_hashes(configs, words)]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[:10]

    def seconds(self) -> dict[str, float]:
        """Return what finished steps took, by folder name."""
        done = sorted((self.work / _STEPS).glob(f"*/{_DONE}"))
        return {file.parent.name: json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in done}

    def _without_places(self, word: str) -> str:
        for place, content in self._stand_ins.items():
            word = word.replace(place, content)
        return word

    def _run(self, name: str, words: list[str], folder: Path) -> None:
        interrupted = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if interrupted and words[0] == "fit":
            first = folder / FIRST_RUN
            words = [*words, "--ckpt_path", str(first) if (first / "checkpoints" / "last.ckpt").is_file() else "last"]
        log = folder / "log.txt"
        started = time.monotonic()
        code = run_logged(words, self._environment, log, echo=False)
        if code:
            kind = UserError if code == 2 else RunError
            raise kind(
                f"Step {name!r} ended with exit code {code}.",
                found=f"{last_words(log)}\n  (log: {log})",
                remedy="mend it and start again: what is finished is kept. This step alone:\n"
                f"    python -m diffreid_lightning {shlex.join(words)}",
            )
        seconds = round(time.monotonic() - started, 1)
        write_json(folder / _DONE, {"words": words, "seconds": seconds})
        print(f"{folder.name}: {seconds:.0f} s", flush=True)
