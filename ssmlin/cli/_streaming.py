"""`ssmlin stream`: rows on standard input, predictions on standard output."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ssmlin._progress import waiting
from ssmlin.cli._fitting import load_and_update
from ssmlin.cli._options import (
    STOPPED,
    JsonOption,
    ModelArgument,
    QuietOption,
    Reading,
    fail,
    in_lines,
    names,
    prepare,
)

if TYPE_CHECKING:
    from ssmlin.serving import LivePage, RowStream

#: What shells say of a program whose reader has gone (SIGPIPE).
_NO_READER = 141


def stream(
    model_file: ModelArgument,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Keep where the stream is in this file; the same call goes on from there, also "
            "after a crash."
        ),
    ] = None,
    save_every: Annotated[
        int, typer.Option(min=1, help="Rows between two writings of --state.")
    ] = 1,
    levels: Annotated[
        str, typer.Option(help="Percentages of the intervals, separated by commas.")
    ] = "50,80,95",
    decimal: Annotated[
        str | None,
        typer.Option(help="The decimal mark in text; default that of the file of the fit."),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(help="The series of all rows; default what their column for it says."),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(
            help="Data that the stream goes on after: a file, a folder or a pattern; default those "
            "of the fit."
        ),
    ] = None,
    live: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Draw the stream on a page on this port of this machine alone; 0 for a free one.",
        ),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read rows of CSV from standard input, and predict the next one after each.

    The stream goes on after the data that the model was fitted to, or --after others, in their
    units. The first line names the columns. Output is CSV, or with --json an object in each line,
    flushed after each row. A model with inputs predicts the row itself, before its targets are
    looked at. A row that cannot be read is told on standard error, skipped and counted. Rows of
    several series may come in any order; to a population a series may be new.

    Example: tail -f sensor.csv | ssmlin stream model.safetensors --state stream.safetensors
    """
    wanted = [_level(one) for one in names(levels)]
    if state is not None and not state.parent.is_dir():
        fail(f"--state: expected a folder that exists, got {state.parent}")
    progress = not (quiet or as_json)
    prepare(progress)
    from ssmlin.forecasting import Forecaster
    from ssmlin.serving import RowStream

    rows = _Rows()
    with in_lines():
        if after is None:
            forecaster = Forecaster.load(model_file)
        else:
            forecaster = load_and_update(
                model_file, after, Reading(decimal=decimal), to_fit=False, progress=progress
            )
        found = RowStream(forecaster, wanted, decimal=decimal, series=series)
        if state is not None and state.exists():
            found.load(state)
            typer.echo(f"going on after {found.num_rows} rows", err=True)
        with waiting("compiling a step", progress):
            found.warm_up()
    page, code = None if live is None else _live_page(found, live), 0
    if page is not None:
        rows.on_skip = page.tell
    try:
        write = _as_json if as_json else _Table()
        for number, row in rows.of(found):
            try:
                step = found.take(row)
            except ValueError as error:
                rows.skip(number, str(error))
                continue
            if page is not None:
                page.tell(rows.num_read, rows.num_skipped, step)
            for record in found.records(step):
                write(record)
            sys.stdout.flush()
            if state is not None and found.num_rows % save_every == 0:
                found.save(state)
    except KeyboardInterrupt:
        code = STOPPED
    except BrokenPipeError:
        _no_more_output()
        code = _NO_READER
    finally:
        if page is not None:
            page.close()
    _end(found, state, rows, code)


def _live_page(found: "RowStream", port: int) -> "LivePage":
    """The page of --live, and its address on standard error."""
    from ssmlin.comparison import page_style
    from ssmlin.serving import LivePage

    try:
        page = LivePage(found, port, page_style())
    except OSError as error:
        fail(f"--live: expected a port that is free, got {port}: {error.strerror}")
    typer.echo(f"live page: http://{page.hosts[0]}", err=True)
    return page


def _no_more_output() -> None:
    """Nobody reads: Python would flush again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _level(text: str) -> float | int:
    """A percentage."""
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not 1 <= level < 100:
        fail(f"--levels: expected percentages in [1, 100), such as 50,95, got {text!r}")
    return int(level) if level.is_integer() else level


def _end(found: "RowStream", state: Path | None, rows: "_Rows", code: int) -> NoReturn:
    """Keep the state, say how many rows there were, and end."""
    if state is not None:
        with in_lines():
            found.save(state)
    skipped = f", {rows.num_skipped} skipped" if rows.num_skipped else ""
    typer.echo(f"{rows.num_read} rows{skipped}", err=True)
    raise typer.Exit(code)


class _Rows:
    """The rows of standard input, one as soon as it is there."""

    def __init__(self) -> None:
        self.num_read = self.num_skipped = 0
        self.on_skip: Callable[[int, int], object] = lambda *counts: None

    def of(self, found: "RowStream") -> Iterator[tuple[int, dict[str, str]]]:
        """The number of each row, from 1, and its fields; what is no row is told and skipped."""
        lines = iter(sys.stdin.buffer.readline, b"")
        header = next(lines, b"").decode("utf-8-sig", "replace").strip()
        if not header:
            fail("rows: expected a first line with the names of the columns, got nothing")
        mark = max(",;\t|", key=header.count)
        columns = [name.strip() for name in next(csv.reader([header], delimiter=mark))]
        missing = [name for name in found.columns if name not in columns]
        if missing:
            fail(f"rows: expected the columns {', '.join(found.columns)}, got {', '.join(columns)}")
        twice = [name for name in found.columns if columns.count(name) > 1]
        if twice:
            fail(f"rows: expected columns of different names, got {twice[0]!r} twice")
        for number, line in enumerate(lines, 1):
            if not line.strip() and len(columns) > 1:
                continue
            self.num_read += 1
            try:
                fields = next(csv.reader([line.decode()], delimiter=mark, strict=True), [""])
                if len(fields) != len(columns):
                    raise ValueError(f"expected {len(columns)} fields, got {len(fields)}")
            except (ValueError, csv.Error) as error:  # the first of what is not UTF-8, too
                self.skip(number, str(error))
                continue
            yield number, dict(zip(columns, fields, strict=True))

    def skip(self, number: int, why: str) -> None:
        """Tell that a row is left out."""
        self.num_skipped += 1
        typer.echo(f"row {number} skipped: {why}", err=True)
        self.on_skip(self.num_read, self.num_skipped)


def _as_json(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")


class _Table:
    """CSV with a header before the first row."""

    def __init__(self) -> None:
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._has_header = False

    def __call__(self, record: dict[str, Any]) -> None:
        if not self._has_header:
            self._writer.writerow(record)
            self._has_header = True
        self._writer.writerow("" if x is None else x for x in record.values())
