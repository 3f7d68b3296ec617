"""One file per command that is not a Lightning subcommand.

``NAME_command(words)`` takes the command line after the name and returns the exit code, 0 where its docstring says
nothing else.
"""
