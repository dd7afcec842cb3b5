"""The command line: parses, calls, prints."""

import sys

from ssmlin._optional import MissingPackage, require

__all__ = ["main"]

#: What `ssmlin` alone prints; no line is longer than 80 characters.
_WELCOME = """\
Linear attention as probabilistic state space models: compare, fit, forecast.

  ssmlin compare data.csv --target sales --time month
      which model predicts a series best, by how much, and whether to trust it
  ssmlin fit data.csv --target sales --time month --output model.safetensors
      fit one model to the whole file
  ssmlin forecast model.safetensors data.csv --horizon 12
      forecast the steps after its end, with intervals

ssmlin compare --help tells all options, ssmlin --help the other commands;
ssmlin demo needs no file."""


def main() -> None:
    """Entry point of the command `ssmlin`."""
    if len(sys.argv) == 1:
        print(_WELCOME)
        return
    try:
        require("typer")
        from ssmlin.cli._app import app

        app()
    except MissingPackage as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
