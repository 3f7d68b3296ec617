"""Fixtures of this folder."""

from tests.fixtures.color_features import data as data
from tests.fixtures.color_features import market as market
from tests.fixtures.color_features import trainer as trainer
