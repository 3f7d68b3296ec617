"""Fixtures of this folder."""

from tests.fixtures.diffusion import checkpoints as checkpoints
from tests.fixtures.diffusion import people as people
from tests.fixtures.diffusion import tokenizer_folder as tokenizer_folder
