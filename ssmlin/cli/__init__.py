"""The command line: parses, calls, prints."""

from ssmlin.cli._app import main

__all__ = ["main"]
