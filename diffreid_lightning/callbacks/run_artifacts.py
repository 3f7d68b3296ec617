"""Log what a stage read and wrote as W&B artifacts: the lineage from the source over Diff-Person to the backbone.

An artifact is named after its content (``manifest-1a2b3c4d5e6f7a8b``), so the stage that writes a folder and the one
that reads it name it alike without asking a server.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffreid_lightning.backbones.timm_folder import CONFIG_FILE, WEIGHTS_FILE
from diffreid_lightning.backbones.timm_model import LOCAL_SCHEME
from diffreid_lightning.callbacks.manifest_writer import ManifestWriter
from diffreid_lightning.config_files import texts
from diffreid_lightning.datasets.diff_person import NOTE
from diffreid_lightning.errors import UserError, first_line
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.manifest.provenance import find_manifest_hashes
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.content_hash import add_content
from diffreid_lightning.tracking import WandbTracker
from diffreid_lightning.training.trainer_parts import callbacks_of, datamodule_of

MANIFEST = "manifest"
#: files by which a folder is known; names of later packages are repeated here, since this one may not import them
_MARKS = {
    "personalized": ("identities.json",),
    "scorer": ("scorer.json",),
    "backbone": (CONFIG_FILE, WEIGHTS_FILE),
    MANIFEST: (FILE_NAME,),
}


@dataclass(frozen=True)
class StageArtifact:
    """Input or output of a stage.

    Args:
        kind: ``manifest``, ``personalized``, ``scorer`` or ``backbone``; the type of the W&B artifact.
        content_hash: 64 hexadecimal digits: a manifest's own, or of all files of a folder.
        path: its folder; None for a dataset that is no manifest on the disk.
    """

    kind: str
    content_hash: str
    path: Path | None = None

    @property
    def name(self) -> str:
        """Name of the W&B artifact."""
        return f"{self.kind}-{self.content_hash[:16]}"

    @property
    def content(self) -> Path | None:
        """Folder or file that belongs to it; of a manifest among other files only the table."""
        if self.kind != MANIFEST or self.path is None or (self.path / NOTE).is_file():
            return self.path
        return self.path / FILE_NAME


def find_artifact(path: Path) -> StageArtifact | None:
    """Return what a folder holds, None if it is none of the kinds.

    Raises:
        UserError: it holds a damaged manifest.
    """
    for kind, marks in _MARKS.items():
        if all((path / mark).is_file() for mark in marks):
            digest = Manifest.read(path).content_hash if kind == MANIFEST else _hash_folder(path)
            return StageArtifact(kind, digest, path.resolve())
    return None


def log_stage(trainer: Trainer, settings: Any, run: Path) -> None:
    """Log inputs and outputs of a finished stage with every tracker whose ``artifacts`` is not ``none``.

    Args:
        trainer: has fitted or predicted.
        settings: the stage's settings of data and model; those that name an artifact's folder are its inputs.
        run: the run folder.
    """
    trackers = [logger for logger in trainer.loggers if isinstance(logger, WandbTracker)]
    writers = [callback.folder for callback in callbacks_of(trainer) if isinstance(callback, ManifestWriter)]
    fitted = trainer.state.fn == TrainerFn.FITTING
    written = sorted(run.glob("*/")) if fitted else writers
    provenance = getattr(datamodule_of(trainer), "provenance", {}) if fitted else {}
    for tracker in trackers:
        log_artifacts(tracker, settings, written, tuple(find_manifest_hashes(provenance)))


@rank_zero_only
def log_artifacts(tracker: WandbTracker, settings: Any, written: Sequence[Path], read: Iterable[str] = ()) -> None:
    """Log inputs and outputs with one tracker; a failure is a warning, since the stage itself is finished.

    Args:
        tracker: its ``artifacts`` says how.
        settings: nested settings; strings that name an artifact's folder are inputs.
        written: folders that may hold outputs.
        read: content hashes of manifests that were read, wherever they lie.
    """
    if tracker.artifacts == "none" or tracker.mode == "disabled":
        return
    try:
        inputs = {each.name: each for each in _find_named(settings)}
        outputs = [found for folder in written if (found := find_artifact(folder)) is not None]
        # The first parent of a manifest is what its stage read.
        parents = [Manifest.read(each.path).parents[:1] for each in outputs if each.kind == MANIFEST and each.path]
        for digest in (*read, *itertools.chain(*parents)):
            each = StageArtifact(MANIFEST, digest)
            inputs.setdefault(each.name, each)
        run = tracker.experiment
        # Offline, wandb refuses use_artifact; what that does with a new artifact can be recorded all the same.
        declare: Any = getattr(run, "_log_artifact", None)
        for each in inputs.values() if declare else ():
            declare(_build(each, tracker.artifacts, ()), is_user_created=True, use_after_commit=True)
        for each in outputs:
            run.log_artifact(_build(each, tracker.artifacts, inputs))
    except Exception as error:
        rank_zero_warn(f"The artifacts of this run are not logged to W&B ({first_line(error)}).")


def _build(each: StageArtifact, how: str, inputs: Iterable[str]) -> Any:
    import wandb

    metadata = {"content_hash": each.content_hash, "path": str(each.path or ""), "inputs": sorted(inputs)}
    artifact = wandb.Artifact(each.name, each.kind, metadata=metadata)
    if each.content is None:
        return artifact
    if how == "references":
        artifact.add_reference(each.content.as_uri(), checksum=True)
    elif each.content.is_dir():
        artifact.add_dir(str(each.content), policy="immutable")  # mutable files would be copied first
    else:
        artifact.add_file(str(each.content), policy="immutable")
    return artifact


def _find_named(settings: Any) -> Iterator[StageArtifact]:
    for text in filter(None, texts(settings)):
        try:
            path = user_path(text.removeprefix(LOCAL_SCHEME))
        except UserError:  # a text, no path
            continue
        found = find_artifact(path.parent if path.name == FILE_NAME else path)
        if found is not None:
            yield found


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\n".encode())
        add_content(digest, file)
    return digest.hexdigest()
