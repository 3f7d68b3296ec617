"""Fixtures of this folder."""

from tests.fixtures.diffusion import corpus as corpus
from tests.fixtures.diffusion import parts as parts
from tests.fixtures.diffusion import tokenizer as tokenizer
from tests.fixtures.diffusion import two_threads as two_threads
