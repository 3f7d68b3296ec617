"""The real command line, for the tests of this folder."""

from tests.cli.conftest import command as command
