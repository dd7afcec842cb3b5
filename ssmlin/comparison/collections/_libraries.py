"""The packages that only collections use, loaded when they are."""

from importlib import import_module
from typing import Any

from ssmlin._optional import MissingPackage


def load(module: str) -> Any:
    """Import a module of a package that the extra `collections` brings.

    Raises:
        MissingPackage: it is not installed.
    """
    package = module.split(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingPackage(
            f"{package}: expected it to be installed; pip install 'ssmlin[collections]'",
            name=package,
        ) from error
