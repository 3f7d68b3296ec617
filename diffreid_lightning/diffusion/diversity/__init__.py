"""Diversity Injection: strategies that vary what is drawn of an identity, given in YAML by class path."""

from diffreid_lightning.diffusion.diversity.base import Diversity, ImageRequest
from diffreid_lightning.diffusion.diversity.composed import ComposedGuidance
from diffreid_lightning.diffusion.diversity.guidance_jitter import GuidanceJitter
from diffreid_lightning.diffusion.diversity.none import NoDiversity
from diffreid_lightning.diffusion.diversity.sdedit import SDEdit
from diffreid_lightning.diffusion.diversity.words import WordsOnly

__all__ = ["ComposedGuidance", "Diversity", "GuidanceJitter", "ImageRequest", "NoDiversity", "SDEdit", "WordsOnly"]
