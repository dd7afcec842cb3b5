"""The benchmarks, which `ssmlin bench` runs: one module each, with a function `run(quick)`.

They print Markdown, so that a run can be pasted into docs/benchmarks.md. A wheel holds them as
`ssmlin.benchmarks`, so modules import each other relatively; importing them runs nothing.
"""

from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any

BENCHMARKS = {
    "start": "from the shell to an answer: imports, first fits, commands, with and without a cache",
    "filtering": "likelihood, filter, smoother, gradient and draws against other libraries",
    "drivers": "sequential, associative and chunked drivers, and which one `auto` takes",
    "scaling": "time and memory against T and d, and against the floors of the machine",
    "square_root": "the square-root form against the plain one",
    "stress": "errors in single precision where the problem is badly conditioned",
    "batches": "batches of sequences against single ones and against vmap",
    "populations": "many series that share a law: gradients, fits, forecasts, memory",
    "learning": "a fit by Adam and draws by NUTS against dynamax",
    "streaming": "one step at a time: the online filter, and exported models without ssmlin",
    "accelerators": "what an accelerator gains: drivers, chunks, batches, and dynamax",
    "devices": "time spread over devices, forced ones or accelerators",
    "dense": "the dense drop-in functions against dynamax's",
}


def run(names: list[str], quick: bool = False) -> None:
    """Run benchmarks and print their tables.

    Args:
        names: which, of `BENCHMARKS`.
        quick: tiny sizes and few repeats, to see that all of it works; the figures mean nothing.
    """
    import jax

    from . import harness

    print(harness.machine())
    # Whatever the environment says: the tables are in single precision, and compile times are those
    # of compiling.
    with jax.enable_x64(False), harness.compiled_anew(not quick):
        for name in names:
            harness.section(name.replace("_", " ").capitalize(), BENCHMARKS[name])
            import_module(f".{name}", __name__).run(quick)


def record(names: list[str], quick: bool = False) -> dict[str, Any]:
    """Run benchmarks and return the machine and the tables, as JSON can hold them."""
    from . import harness

    with harness.keep() as sections, redirect_stdout(StringIO()):
        run(names, quick)
    return {"machine": harness.machine(), "sections": sections}
