"""The real command line, for the tests of this folder."""

from tests.fixtures.command_line import command as command
