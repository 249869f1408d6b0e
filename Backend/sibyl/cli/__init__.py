"""The command line: parses, composes, prints. It decides nothing that a program could not decide without it, and
imports what a command needs only when that command runs."""

from sibyl.cli.entry import main

__all__ = ["main"]
