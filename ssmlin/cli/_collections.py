"""`ssmlin compare-collection`."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ssmlin._progress import waiting
from ssmlin.cli._options import (
    CheckpointOption,
    DateFormatOption,
    DecimalOption,
    EncodingOption,
    FileArgument,
    JsonOption,
    QueryOption,
    QuietOption,
    Reading,
    SeedOption,
    TableOption,
    ThousandsOption,
    TimeOption,
    console,
    fail,
    in_lines,
    names,
    new_file,
    prepare,
    read,
    resumable,
    two_files,
)

if TYPE_CHECKING:
    import pandas

    from ssmlin.comparison.collections import CollectionComparison

#: Columns of the printed table, as far as they have room in 80 characters, with their headings.
_SHOWN = {"mase": "MASE", "crps": "CRPS", "ratio": "ratio", "win_rate": "wins",
          "coverage_80": "80 %", "coverage_95": "95 %", "failures": "failed",
          "seconds": "s/series"}  # fmt: skip


def compare_collection(
    file: FileArgument,
    target: Annotated[str, typer.Option("--target", "-y", help="The column to predict.")],
    series: Annotated[str, typer.Option(help="Column that says which series a row is of.")],
    horizon: Annotated[
        int, typer.Option(min=1, help="Hold out so many steps of each series, and forecast them.")
    ],
    time: TimeOption = None,
    query: QueryOption = None,
    table_name: TableOption = None,
    encoding: EncodingOption = None,
    decimal: DecimalOption = None,
    thousands: ThousandsOption = None,
    date_format: DateFormatOption = None,
    models: Annotated[str, typer.Option(help="Names separated by commas; default all.")] = "",
    period: Annotated[
        int | None, typer.Option(min=1, help="Steps a season, 1 for none; default by the times.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the scores of every series to this new CSV file.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write tables and figures to this new HTML file.")
    ] = None,
    checkpoint: CheckpointOption = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the model that forecasts the ends of many series best, all steps at once.

    Example: ssmlin compare-collection data.csv -y y --series id --horizon 12 --report all.html
    """
    new_file(output, "--output")
    new_file(report, "--report")
    two_files(output, "--output", report, "--report")
    progress = not (quiet or as_json)
    prepare(progress)
    from ssmlin._files import written_whole
    from ssmlin.comparison.collections import (
        DEFAULT,
        Collection,
        compare_collection,
        hold_out,
        write_collection_report,
    )
    from ssmlin.forecasting import season_of

    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    with waiting(f"reading {file}", progress):
        panel = read(file, (target,), (), time, series, reading, to_fit=False)
    if period is None:
        period = max((season_of(columns.times) or 1 for columns in panel.values()), default=1)
    values = {name: columns.values[:, 0] for name, columns in panel.items()}
    beside = output or report or Path(f"{file.stem}-comparison")
    folder = checkpoint or beside.with_name(beside.name + ".checkpoint")

    def tell(text: str) -> None:
        if progress:
            console.print(text, highlight=False)

    with in_lines(), resumable(folder, keep=checkpoint is not None):
        collection: Collection = hold_out(values, horizon, period, name=file.stem)
        found = compare_collection(
            collection, names(models) or DEFAULT, seed, folder=folder, on_progress=tell
        )
        comparison = found["all"]
        if output is not None:
            with written_whole(output, new=True) as temporary:
                comparison.to_frame().to_csv(temporary, index=False)
        if report is not None:
            command = shlex.join(["ssmlin", *sys.argv[1:]])
            write_collection_report(report, found, command=command)
    frame = comparison.summary().join(comparison.relative("crps"))
    if as_json:
        typer.echo(json.dumps(json.loads(frame.reset_index().to_json(orient="records"))))
        return
    _print(frame, comparison)
    for path in (output, report):
        if path is not None:
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    for model, made in comparison.forecasts.items():
        if made.num_failures:
            reason = next(reason for reason in made.failures if reason)
            console.print(
                f"{model} failed on {made.num_failures} of {len(collection)} series, "
                f"forecast by seasonal_naive instead; first: {reason}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
    if all(made.num_failures == len(collection) for made in comparison.forecasts.values()):
        fail("models: expected one that forecasts a series, got none")


def _print(frame: "pandas.DataFrame", comparison: "CollectionComparison") -> None:
    """The most important columns, the model with the best ratio first."""
    columns = {name: heading for name, heading in _SHOWN.items() if name in frame}
    table = Table(
        title=f"{comparison.collection.name}: {len(comparison.collection)} series",
        title_justify="left", box=SIMPLE_HEAD,
    )  # fmt: skip
    table.add_column("model", no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in frame.sort_values("ratio").iterrows():
        cells = [f"{row[x]:.0f}" if x == "failures" else f"{row[x]:.3f}" for x in columns]
        table.add_row(str(name), *cells)
    console.print(table)
    console.print(
        "MASE, CRPS: in units of the mean change over a season; ratio: of CRPS to seasonal naive, "
        "geometric mean; wins: how often better than another model; 80 %, 95 %: share of values "
        "inside this interval",
        highlight=False,
    )
