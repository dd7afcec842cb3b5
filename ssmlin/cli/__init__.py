"""The command line: parses, calls, prints."""

import sys

from ssmlin._optional import MissingPackage, require

__all__ = ["main"]


def main() -> None:
    """Entry point of the command `ssmlin`."""
    try:
        require("typer")
        from ssmlin.cli._app import app

        app()
    except MissingPackage as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
