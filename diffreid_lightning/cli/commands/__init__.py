"""One file per command that is not a Lightning subcommand."""
