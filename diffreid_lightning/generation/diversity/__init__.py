"""Diversity Injection: strategies that vary the generated images of an identity, given in YAML by class path.

The default is ``composed_guidance.py``. A strategy chooses an image's prompts and weighs them at each timestep;
``diffusion/denoising_loop.py`` adds up the predictions.
"""

from diffreid_lightning.generation.diversity.base import Diversity, ImageRequest
from diffreid_lightning.generation.diversity.composed_guidance import ComposedGuidance
from diffreid_lightning.generation.diversity.concept_difference import ConceptDifference
from diffreid_lightning.generation.diversity.guidance_jitter import GuidanceJitter
from diffreid_lightning.generation.diversity.no_diversity import NoDiversity
from diffreid_lightning.generation.diversity.sdedit import SDEdit
from diffreid_lightning.generation.diversity.words_only import WordsOnly

__all__ = [
    "ComposedGuidance",
    "ConceptDifference",
    "Diversity",
    "GuidanceJitter",
    "ImageRequest",
    "NoDiversity",
    "SDEdit",
    "WordsOnly",
]
