"""Fixtures of this folder."""

from tests.fixtures.diffusion import checkpoints as checkpoints
from tests.fixtures.diffusion import corpus as corpus
from tests.fixtures.diffusion import parts as parts
from tests.fixtures.diffusion import people as people
from tests.fixtures.diffusion import tokenizer as tokenizer
from tests.fixtures.diffusion import tokenizer_folder as tokenizer_folder
from tests.fixtures.diffusion import two_threads as two_threads
