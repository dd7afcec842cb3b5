"""What is being done and for how long, on standard error, so that a pipe reads results alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


@cache
def _console() -> Console:
    """One for all, since what is shown inside of another is shown below it."""
    # Imported here, so that importing the package stays fast.
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def progress_bar(show: bool) -> Iterator[Progress]:
    """A progress bar with count, elapsed and remaining time; hidden if `show` is False."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}", markup=False),
    )
    with _shown(show, *columns) as bar:
        yield bar


@contextmanager
def running(show: bool) -> Iterator[Progress]:
    """Lines that each say what runs and for how long; only on a terminal, and if `show` is True."""
    from rich import progress

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.TimeElapsedColumn(),
    )
    console = _console()
    seen = console.is_interactive or console.is_jupyter  # rich ends in an empty line elsewhere
    with _shown(show and seen, *columns, transient=True) as lines:
        yield lines


@contextmanager
def waiting(what: str, show: bool = True) -> Iterator[None]:
    """One such line, while the block runs."""
    if not show:
        yield
        return
    with running(show) as lines:
        lines.add_task(what, total=None)
        yield


def _shown(show: bool, *columns: ProgressColumn, transient: bool = False) -> Progress:
    from rich.progress import Progress

    # Lines that are printed meanwhile go above it, if they go to the same terminal.
    return Progress(
        *columns,
        console=_console(),
        disable=not show,
        transient=transient,
        redirect_stdout=sys.stdout.isatty(),
    )
