"""The command line: one thin file per command, and no logic."""
