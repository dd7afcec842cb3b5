"""The measured table of mechanisms, as a Markdown page of which every cell is computed here."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssmlin import attention
from ssmlin._progress import progress_bar
from ssmlin.mechanisms import MECHANISMS
from ssmlin.study import capabilities, state_tracking

_MANY = 8


class Table(NamedTuple):
    """One table of the page.

    Attributes:
        title: of the section.
        text: what is measured, and how to read it.
        headings: of the columns.
        rows: cells as text.
        timed: which columns are times, which differ from run to run.
    """

    title: str
    text: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    timed: tuple[str, ...] = ()


def measure(quick: bool = False, progress: bool = False) -> list[Table]:
    """Measure all mechanisms.

    Args:
        quick: shorter words and sequences in what is timed or tracked; the other cells are those
            of the whole run.
        progress: show a progress bar.

    Returns:
        The tables of the page.
    """
    tables = [
        Table(
            "Formulas",
            "The state is a matrix of m rows and d columns, $S_t = S_{t-1} A_t + B_t$; its bytes "
            "are those of single precision for d = m = 16, with the covariance of "
            "`bayesian_memory`.",
            ("mechanism", "A_t", "B_t", "bytes", "source"),
            [],
        ),
        Table(
            "Memory",
            "d = m = 16, unit keys, all written and nothing forgotten (α = β = 1). *Recall*: mean "
            "squared error over the values' mean square, after 4, 8 and 16 random pairs, and after "
            "8 whose keys collide (cosine 0.9); 0 is perfect. *Overwriting*: the same for the "
            "second value of keys written twice, with the best of three decays. *Half-life*: "
            "tokens until half of the first association is gone (α = 0.98, β = 0.5, random keys "
            "after it); *reach*: what is left of the gradient to it after 64 tokens.",
            ("mechanism", "recall 4", "recall 8", "recall 16", "colliding 8", "overwriting",
             "half-life", "reach"),
            [],
        ),
        Table(
            "Stability and calibration",
            "*Norm*: the largest ‖A_1 ⋯ A_n‖₂, n ≤ 4, that 2 000 random draws over all allowed "
            "gates find. *Coverage*: the share of simulated emissions inside 95 % predictive "
            "intervals under the model, and where the noise has twice the standard deviation it "
            "thinks.",
            ("mechanism", "norm", "coverage", "coverage, noise doubled"),
            [],
        ),
        Table(
            "State tracking",
            "Whether one layer can follow a random word of a group, with the widest gates (α in "
            "[−1, 1], β in [0, 2] where there is such a form). *Least* and *turn*: the least real "
            "and the largest imaginary part of an eigenvalue of A_t that 8 000 random draws over "
            "all allowed gates find, d = 2. A letter of order two needs the eigenvalue −1 (*−1*: "
            "there is none, and at finite precision no counting modulo two, arXiv 2411.12537); one "
            "of order three needs eigenvalues that are not real (*real*: all are, as of every "
            "single step of rank one, which is similar to a symmetric matrix). What is said to "
            "work is constructed below. `rwkv7` counts with w = 0 and w = 1; with w above 0.545, "
            "as its authors train it, no eigenvalue is below −0.455.",
            ("mechanism", "least", "turn", "parity", "S3", "S4", "A5", "S5"),
            [],
        ),
        Table(
            "Constructions",
            "By reflections (β = 2; α = −1; w = 0 and a = 1) and nothing written, run in single "
            f"precision over a random word of length {256 if quick else 4096}: the largest error "
            "of an entry of the state at any step. Entries of different elements are at least 0.3 "
            "apart.",
            ("mechanism", "group", "elements", "n_h", "error"),
            [],
        ),
        Table(
            "Cost",
            "Single precision, d = m = 16, the sequential recurrence (for `bayesian_memory` the "
            "filter): floating point operations a token as XLA counts them (for the filter before "
            "it optimises); time a token; bytes a token that the compiled program needs beside its "
            "arguments; and the slopes of their logarithms over log T (1 is linear).",
            ("mechanism", "flops", "µs", "slope", "bytes", "slope of bytes"),
            [],
            ("µs", "slope"),
        ),
    ]  # fmt: skip
    formulas, memory, calibration, tracking, constructions, costs = tables
    with progress_bar(progress) as bar:
        task = bar.add_task("measure", total=len(MECHANISMS) + 2, note="")
        for name, cls in MECHANISMS.items():
            numbers = 16 * 16 + (0 if cls.writes_values else 16 * 16)
            formulas.rows.append(
                (name, cls.transition_formula, cls.drift_formula, str(4 * numbers), cls.source)
            )
            recall = [capabilities.recall_error(name, n) for n in (4, 8, 16)]
            recall.append(capabilities.recall_error(name, _MANY, 0.9))
            memory.rows.append(
                (
                    name,
                    *(f"{x:.3f}" for x in recall),
                    f"{capabilities.overwriting_error(name):.3f}",
                    f"{capabilities.half_life(name):g}".replace("inf", "none"),
                    f"{capabilities.gradient_reach(name):.4f}",
                )
            )
            calibration.rows.append(
                (
                    name,
                    f"{capabilities.largest_norm(name):.3f}",
                    f"{capabilities.coverage(name):.3f}",
                    f"{capabilities.coverage(name, 2.0):.3f}",
                )
            )
            answers, found = state_tracking.tracks(name), capabilities.spectrum(name)
            tracking.rows.append(
                (name, f"{found.least:.3f}", f"{found.turn:.3f}", *answers.values())
            )
            if answers["parity"].startswith("yes"):
                try:
                    said = f"{state_tracking.parity_error(name, 256 if quick else 4096):.1e}"
                except ValueError:  # of one's own, and by other means than ours
                    said = "none known"
                constructions.rows.append((name, "parity", "2", "1", said))
            cost = capabilities.cost(name, (256, 512) if quick else (2048, 8192))
            costs.rows.append(
                (
                    name,
                    f"{cost.flops:.0f}",
                    f"{cost.microseconds:.2f}",
                    f"{cost.slope:.2f}",
                    f"{cost.memory:.0f}",
                    f"{cost.memory_slope:.2f}",
                )
            )
            bar.update(task, advance=1, note=name)
        for group in state_tracking.groups()[1:]:
            needed = group.reflections.shape[1]
            error = state_tracking.tracking_error(group, needed, 256 if quick else 4096)
            constructions.rows.append(
                ("deltaproduct", group.name, str(len(group.elements)), str(needed), f"{error:.1e}")
            )
        bar.update(task, advance=1, note="groups")
        tables.append(_softmax_side(512 if quick else 4096))
        tables.append(_long_sequences(1024 if quick else 16384))
        bar.update(task, advance=1, note="attention")
    return tables


def _structured(steps: int, d: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Tokens of a few topics, each looking at its own, in runs of 128."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(16, d))
    topic = np.repeat(rng.integers(0, 16, size=-(-steps // 128)), 128)[:steps]
    q = 2.5 * directions[topic] / np.sqrt(d) * d**0.25 * 2 + 0.3 * rng.normal(size=(steps, d))
    k = 2.5 * directions[topic] / np.sqrt(d) * d**0.25 * 2 + 0.3 * rng.normal(size=(steps, d))
    v = rng.normal(size=(steps, d))
    return tuple(jnp.asarray(x, jnp.float32) for x in (q, k, v))  # type: ignore[return-value]


def _softmax_side(steps: int) -> Table:
    """Time, cache and error of what stands in for softmax attention."""
    d = 64
    table = Table(
        "The softmax side",
        f"One head of 64, causal, single precision, T = {steps}, tokens of 16 topics in runs of "
        "128. *Cache*: numbers kept a token. *Error*: root mean square of the difference to "
        "softmax attention over that of its output, none where the mechanism computes something "
        "else. *Kept*: the share of blocks at or below the diagonal that are evaluated. *Slope*: "
        "of log time over log T, from a quarter of T.",
        ("mechanism", "cache", "error", "kept", "ms", "slope"),
        [],
        ("ms", "slope"),
    )
    whole = _structured(steps, d)
    exact = attention.softmax_attention(*whole)
    for name, cache, computes_softmax, function in _attentions(d):
        output = function(steps)(*whole)
        error = jnp.sqrt(jnp.mean((output - exact) ** 2) / jnp.mean(exact**2))
        seconds = [
            capabilities.median_seconds(function(n), _structured(n, d), 3)
            for n in (steps // 4, steps)
        ]
        kept = ""
        if name.startswith("xattention"):
            threshold = float(name.split("τ = ")[1].rstrip(")"))
            blocks = attention.choose_blocks(*whole[:2], threshold, block_size=128, stride=16)
            n = len(blocks)
            kept = f"{float(blocks.sum()) / (n * (n + 1) / 2):.3f}"
        table.rows.append(
            (
                name,
                cache,
                f"{float(error):.1e}" if computes_softmax else "",
                kept,
                f"{1e3 * seconds[1]:.1f}",
                f"{np.log(seconds[1] / seconds[0]) / np.log(4):.2f}",
            )
        )
    return table


def _long_sequences(steps: int) -> Table:
    """Block-sparse against full attention where T is large."""
    table = Table(
        "Block-sparse attention on long sequences",
        f"T = {steps}, tokens as above, and without structure (normal, so that no block stands "
        "out). *Full by blocks* is the same loop over all blocks, which needs no memory for all "
        "scores. *Ratio*: to the faster of the two full ones.",
        ("tokens", "τ", "kept", "error", "ms", "full, ms", "full by blocks, ms", "ratio"),
        [],
        ("ms", "full, ms", "full by blocks, ms", "ratio"),
    )
    rng = np.random.default_rng(0)
    plain = tuple(jnp.asarray(rng.normal(size=(steps, 64)), jnp.float32) for _ in range(3))

    def seconds(function: Callable[..., Array], tokens: Any) -> float:
        return capabilities.median_seconds(function, tokens, 3)

    full = jax.jit(attention.softmax_attention)
    for name, tokens in (("structured", _structured(steps, 64)), ("normal", plain)):
        exact = full(*tokens)
        whole = seconds(full, tokens), seconds(_sparse(1.0), tokens)
        for threshold in (0.9, 0.99):
            blocks = attention.choose_blocks(*tokens[:2], threshold, block_size=128, stride=16)
            n = len(blocks)
            error = jnp.sqrt(jnp.mean((_sparse(threshold)(*tokens) - exact) ** 2))
            taken = seconds(_sparse(threshold), tokens)
            table.rows.append(
                (
                    name,
                    f"{threshold}",
                    f"{float(blocks.sum()) / (n * (n + 1) / 2):.3f}",
                    f"{float(error / jnp.sqrt(jnp.mean(exact**2))):.1e}",
                    *(f"{1e3 * x:.0f}" for x in (taken, *whole)),
                    f"{taken / min(whole):.2f}",
                )
            )
    return table


def _sparse(threshold: float) -> Callable[..., Array]:
    """XAttention as one compiled function."""

    def run(q: Array, k: Array, v: Array) -> Array:
        return attention.xattention(q, k, v, threshold=threshold)

    return jax.jit(run)


def _attentions(d: int) -> Iterator[tuple[str, str, bool, Callable[[int], Any]]]:
    """Name, cache, whether it stands for softmax attention, and the function for T tokens."""
    weights = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    # Values that the keys determine would make the comparison another one; so only its cost.
    projection = attention.slim_projection(jnp.asarray(weights, jnp.float32), jnp.eye(d))
    multi = attention.init_multi_token(1, None)

    def head(function: Callable[..., Array]) -> Callable[..., Array]:
        return lambda q, k, v: function(q[:, None], k[:, None], v[:, None])[:, 0]

    yield "softmax", "2 d", True, lambda _: jax.jit(attention.softmax_attention)
    yield (
        "slim",
        "d",
        False,
        lambda _: jax.jit(head(lambda q, k, v: attention.slim_attention(q, k, projection))),
    )

    for threshold in (0.9, 0.99):
        yield f"xattention (τ = {threshold})", "2 d", True, lambda _, t=threshold: _sparse(t)  # type: ignore[misc]
    yield "grouped (g = 4)", "2 d / g", True, lambda _: jax.jit(attention.grouped_attention)
    yield (
        "multi_token",
        "2 d",
        False,
        lambda _: jax.jit(head(lambda q, k, v: attention.multi_token_attention(multi, q, k, v))),
    )
    yield (
        "karat (r = 12, G = 3)",
        "2 d",
        False,
        lambda n: jax.jit(
            lambda q, k, v: attention.karat_attention(
                attention.init_karat(jax.random.key(0), n), q, k, v
            )
        ),
    )


def to_markdown(tables: list[Table], command: str) -> str:
    """The page.

    Args:
        tables: what :func:`measure` returned.
        command: that makes it.

    Returns:
        Markdown.
    """
    lines = [
        "# Mechanisms, measured",
        "",
        "The same questions to every mechanism, each answered by a program: nothing here is "
        f"written by hand. Made by `{command}`; times are of two CPU cores and differ from run to "
        "run, all else does not.",
    ]
    for table in tables:
        lines += ["", f"## {table.title}", "", table.text, ""]
        lines.append("| " + " | ".join(table.headings) + " |")
        lines.append("|" + " --- |" * len(table.headings))
        lines += ["| `" + row[0] + "` | " + " | ".join(row[1:]) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"
