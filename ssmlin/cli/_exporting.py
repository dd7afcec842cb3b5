"""`ssmlin export`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ssmlin._progress import waiting
from ssmlin.cli._options import (
    JsonOption,
    ModelArgument,
    QuietOption,
    console,
    fail,
    in_lines,
    new_file,
    prepare,
)


def export(
    model_file: ModelArgument,
    format: Annotated[
        str,
        typer.Option(
            help="numpy: a module for NumPy alone; stablehlo: for other compilers; onnx: for ONNX "
            "Runtime and the like."
        ),
    ] = "numpy",
    output: Annotated[
        Path | None, typer.Option(help="The new files, without an ending; default the model's.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Keep matrices as float32, float16 or int8; default: as they are."),
    ] = None,
    series: Annotated[str | None, typer.Option(help="Which of several series.")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a fitted model as files that run without ssmlin, one step at a time.

    numpy: a module of one file and its weights, which need NumPy and Python 3.9 or newer. It goes
    on after the data that the model was fitted to, in their units. stablehlo: one step, in
    standardised units, for jax.export and other compilers. onnx: the same for ONNX Runtime.

    Example: ssmlin export sales.safetensors --format numpy --output sales_model
    """
    path = model_file.with_suffix("") if output is None else output
    endings = {
        "numpy": (".py", ".npz"),
        "stablehlo": (".stablehlo", ".mlir", ".npz"),
        "onnx": (".onnx", ".npz"),
    }
    if format not in endings:
        fail(f"--format: expected one of {', '.join(endings)}, got {format!r}")
    if format == "numpy" and not path.name.isidentifier():
        fail(f"--output: expected a name that Python can import, such as my_model, got {path.name}")
    for ending in endings[format]:
        new_file(Path(f"{path}{ending}"), "--output")
    progress = not (quiet or as_json)
    prepare(progress)
    from ssmlin.forecasting import load
    from ssmlin.serving import export_model

    with in_lines(), waiting(f"exporting {model_file}", progress):
        source = load(model_file)
        files = export_model(
            source[:2] if isinstance(source, tuple) else source, path, format, series=series,
            weights=weights,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"files": [str(file) for file in files]}))
        return
    for file in files:
        console.print(f"wrote {file}", highlight=False, soft_wrap=True)
