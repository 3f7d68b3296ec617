"""Fixtures of this folder."""

from tests.fixtures.command_line import command as command
from tests.fixtures.command_line import evaluated as evaluated
from tests.fixtures.command_line import market as market
from tests.fixtures.command_line import parses_only as parses_only
from tests.fixtures.command_line import tracked as tracked
