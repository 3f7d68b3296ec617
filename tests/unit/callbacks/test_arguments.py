"""Numbers that no callback can work with are refused when it is made, not in the middle of a run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from lightning.pytorch import Callback

from diffreid_lightning.callbacks.run_checkpoint import RunCheckpoint
from diffreid_lightning.errors import UserError
from diffreid_lightning.generation.contact_sheet import ContactSheet
from diffreid_lightning.personalization.callbacks import IdentitySheets
from diffreid_lightning.reid.evaluation import RetrievalEvaluator
from diffreid_lightning.reid.rank_lists import RankLists
from diffreid_lightning.visualization.sample_sheets import SampleSheets
from tools.tiny_sd.pipeline_export import DiffusionExport


@pytest.mark.parametrize(
    ("kind", "name", "least"),
    [
        (RunCheckpoint, "every_n_epochs", 1),
        (SampleSheets, "every_n_epochs", 1),
        (SampleSheets, "images_per_prompt", 1),
        (SampleSheets, "steps", 1),
        (IdentitySheets, "every_n_epochs", 1),
        (IdentitySheets, "identities", 1),
        (IdentitySheets, "images", 1),
        (IdentitySheets, "steps", 1),
        (DiffusionExport, "every_n_epochs", 1),
        (RankLists, "every_n_epochs", 0),
        (RankLists, "queries", 1),
        (RankLists, "top_k", 1),
        (RetrievalEvaluator, "max_rank", 10),
        (ContactSheet, "identities", 1),
        (ContactSheet, "real", 0),
        (ContactSheet, "generated", 1),
        (ContactSheet, "height", 1),
    ],
)
def test_a_number_out_of_its_range_is_refused(kind: type[Callback], name: str, least: int) -> None:
    needed: dict[str, Any] = {"prompts": ["a person"]} if kind is SampleSheets else {}
    kind(**needed, **{name: least})
    with pytest.raises(UserError, match=re.escape(f"{kind.__name__}.{name} must be at least {least}")):
        kind(**needed, **{name: least - 1})


def test_sheets_need_a_prompt() -> None:
    with pytest.raises(UserError, match="prompts is empty"):
        SampleSheets([])
