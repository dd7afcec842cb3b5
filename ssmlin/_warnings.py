"""Warnings that name the caller's file, not one in here."""

import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def warn(message: str) -> None:
    """Warn of what was done otherwise than asked, or not at all."""
    warnings.warn(message, RuntimeWarning, skip_file_prefixes=(_PACKAGE,))
