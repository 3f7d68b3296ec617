"""Look up what initial weights were trained on, in the ``provenance.json`` beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffreid_lightning.backbones.timm_model import HUB_SCHEME, LOCAL_SCHEME
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.provenance import read_provenance
from diffreid_lightning.run_summary import PROVENANCE_FILE, named_sources
from diffreid_lightning.storage.hub import hub_file

#: key of the hashes of the people whose labels were trained on
TRAINED_IDENTITIES = "training_identities"


def initialization_record(init_from: str | None) -> dict[str, Any]:
    """Return what is recorded of the training behind initial weights.

    Args:
        init_from: as the backbones take it; only folders and hub repositories that this package wrote have a record.

    Returns:
        ``init_from``; ``sources``, sorted names of the datasets whose labels went into the weights and into those that
        they started from; ``steps``, the optimizer steps of all of these trainings; ``images`` and ``identities`` of
        the last one's training set, 0 where nothing is recorded.
    """
    training = _training_note(init_from)
    earlier = training.get("initialization")
    earlier_steps = earlier.get("steps") if isinstance(earlier, Mapping) else 0
    steps = sum(value for value in (training.get("steps"), earlier_steps) if isinstance(value, int))
    data = training.get("training_data")
    counts = {name: data.get(name) if isinstance(data, Mapping) else None for name in ("images", "identities")}
    return {
        "init_from": init_from,
        "sources": sorted(named_sources(training)),
        "steps": steps,
        **{name: count if isinstance(count, int) else 0 for name, count in counts.items()},
    }


def trained_identities(init_from: str | None) -> frozenset[str]:
    """Return the hashes of the people whose labels went into initial weights, and into those these started from.

    Args:
        init_from: as the backbones take it; empty for weights without such a record.
    """
    found = _training_note(init_from).get(TRAINED_IDENTITIES)
    return frozenset(each for each in found if isinstance(each, str)) if isinstance(found, list) else frozenset()


def _training_note(init_from: str | None) -> Mapping[str, Any]:
    if init_from is None:
        return {}
    path = Path(init_from.removeprefix(LOCAL_SCHEME)).expanduser()
    try:
        if init_from.startswith(HUB_SCHEME):
            path = hub_file(init_from.removeprefix(HUB_SCHEME), PROVENANCE_FILE)
        folder = path if path.is_dir() else path.parent if path.is_file() else None
        note = {} if folder is None else read_provenance(folder / PROVENANCE_FILE).get("training")
    except (OSError, UserError):  # weights of others; the file beside them is none of ours
        return {}
    return note if isinstance(note, Mapping) else {}
