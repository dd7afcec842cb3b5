"""The command line: parses, calls, prints."""

from ssmlin.cli.app import main

__all__ = ["main"]
