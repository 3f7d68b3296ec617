"""Check the file of ``--ckpt_path``: a checkpoint of this package, or an error that says what it is."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from diffreid_lightning.errors import UserError, shorten

_KEYS_TO_GO_ON = ("loops", "optimizer_states", "lr_schedulers")


def check_own(path: Path, *, to_go_on: bool = False) -> None:
    """Check that a file is a checkpoint that a run here, or Lightning for it, has saved; no values are read.

    Args:
        path: the file.
        to_go_on: it is to hold the state of a training, not the weights alone.

    Raises:
        UserError: it is another project's, bare weights, of another kind, or damaged.
    """
    # Import late, so that light commands need no torch.
    from diffreid_lightning.storage.checkpoint_io import describe_mismatch
    from diffreid_lightning.storage.torch_file import NotPlainError, describe_non_weights, read_plain

    if not zipfile.is_zipfile(path):
        raise _foreign(path, describe_non_weights(path) or _other_kind(path))
    try:
        content = read_plain(path, mmap=True)
    except NotPlainError as error:
        raise _foreign(path, error.obstacle, of_another=error.of_class is not None) from error
    wrong = describe_mismatch(content)
    if wrong is None and to_go_on:
        wrong = " and ".join(f"no {key!r}" for key in _KEYS_TO_GO_ON if key not in content)
    if wrong:
        there = shorten(map(str, content), 5) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise _foreign(path, f"{there or 'nothing'}; {wrong}")


def _other_kind(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"PK\x03\x04"):
        return "a file that was cut off: its end is missing"
    if head[8:9] == b"{":
        return "a safetensors file: weights without the state of a training"
    if head.startswith(b"\x80"):
        return "a file in torch.save's older form, which no run here writes"
    return f"{path.stat().st_size} bytes of something else"


def _foreign(path: Path, found: str, *, of_another: bool = False) -> UserError:
    from diffreid_lightning.backbones.third_party_checkpoints import forms_of
    from diffreid_lightning.backbones.weight_sources import conversion_of

    forms = forms_of(path)
    if forms or of_another:
        remedy = (
            f"to use its weights, convert them: {conversion_of(path, forms)}; then start from --model.init_from DIR"
        )
    else:
        remedy = "name another checkpoint, a run folder, or 'last' or 'best'"
    return UserError(
        f"{path} is no checkpoint of this package.",
        looked_for="what a run here saves: weights and the state of the training, as plain tensors",
        found=found,
        remedy=remedy,
    )
