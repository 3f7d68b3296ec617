"""Filter rules that drop scored images, one per file; a list of rules is applied in order."""

from diffreid_lightning.filtering.rules.base import Selection, SelectionRule, select_rows
from diffreid_lightning.filtering.rules.fixed_threshold import FixedThreshold
from diffreid_lightning.filtering.rules.floor_and_cap import ThresholdWithFloorAndCap
from diffreid_lightning.filtering.rules.identity_agreement import IdentityAgreement
from diffreid_lightning.filtering.rules.identity_quantile import IdentityQuantile
from diffreid_lightning.filtering.rules.near_duplicates import NearDuplicates

__all__ = [
    "FixedThreshold",
    "IdentityAgreement",
    "IdentityQuantile",
    "NearDuplicates",
    "Selection",
    "SelectionRule",
    "ThresholdWithFloorAndCap",
    "select_rows",
]
