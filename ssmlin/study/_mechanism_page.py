"""The measured table of mechanisms, as a Markdown page with every cell computed here."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssmlin import attention
from ssmlin._progress import progress_bar
from ssmlin.mechanisms import MECHANISMS
from ssmlin.study import _capabilities as capabilities
from ssmlin.study import _state_tracking as state_tracking

_COLLIDING = 8


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
    rows: tuple[tuple[str, ...], ...] = ()
    timed: tuple[str, ...] = ()


class _Lengths(NamedTuple):
    """How long words and sequences are in what is timed or tracked."""

    word: int
    cost: tuple[int, int]
    softmax: int
    sparse: int


_QUICK = _Lengths(256, (256, 512), 512, 1024)
_FULL = _Lengths(4096, (2048, 8192), 4096, 16384)


class _Measure(NamedTuple):
    """A table and how rows of it are measured.

    Attributes:
        table: without rows.
        rows: from a mechanism's name to its rows.
    """

    table: Table
    rows: Callable[[str, _Lengths], list[tuple[str, ...]]]


def measure(quick: bool = False, progress: bool = False) -> list[Table]:
    """Measure all mechanisms.

    Args:
        quick: shorter words and sequences in what is timed or tracked; the other cells are those
            of the whole run.
        progress: show a progress bar.

    Returns:
        The tables of the page.
    """
    lengths = _QUICK if quick else _FULL
    constructions = _constructions(lengths)
    measures = (_FORMULAS, _MEMORY, _CALIBRATION, _TRACKING, constructions, _COST)
    rows: list[list[tuple[str, ...]]] = [[] for _ in measures]
    with progress_bar(progress) as bar:
        task = bar.add_task("measure", total=len(MECHANISMS) + 2, note="")
        for name in MECHANISMS:
            for so_far, one in zip(rows, measures, strict=True):
                so_far += one.rows(name, lengths)
            bar.update(task, advance=1, note=name)
        rows[measures.index(constructions)] += _group_rows(lengths)
        bar.update(task, advance=1, note="groups")
        tables = [
            one.table._replace(rows=tuple(so_far))
            for one, so_far in zip(measures, rows, strict=True)
        ]
        tables.append(_softmax_side(lengths.softmax))
        tables.append(_long_sequences(lengths.sparse))
        bar.update(task, advance=1, note="attention")
    return tables


def _formulas(name: str, lengths: _Lengths) -> list[tuple[str, ...]]:
    del lengths
    cls = MECHANISMS[name]
    numbers = 16 * 16 + (0 if cls.writes_values else 16 * 16)
    return [(name, cls.transition_formula, cls.drift_formula, str(4 * numbers), cls.source)]


def _memory(name: str, lengths: _Lengths) -> list[tuple[str, ...]]:
    del lengths
    recall = [capabilities.recall_error(name, n) for n in (4, 8, 16)]
    recall.append(capabilities.recall_error(name, _COLLIDING, 0.9))
    half_life = f"{capabilities.half_life(name):g}".replace("inf", "none")
    reach = f"{capabilities.gradient_reach(name):.4f}"
    overwriting = f"{capabilities.overwriting_error(name):.3f}"
    return [(name, *(f"{x:.3f}" for x in recall), overwriting, half_life, reach)]


def _calibration(name: str, lengths: _Lengths) -> list[tuple[str, ...]]:
    del lengths
    measured = (
        capabilities.largest_norm(name),
        capabilities.simulated_coverage(name),
        capabilities.simulated_coverage(name, noise_scale=2.0),
    )
    return [(name, *(f"{x:.3f}" for x in measured))]


def _tracking(name: str, lengths: _Lengths) -> list[tuple[str, ...]]:
    del lengths
    answers = state_tracking.tracked_groups(name)
    spectrum = capabilities.transition_spectrum(name)
    return [(name, *(f"{x:.3f}" for x in spectrum), *answers.values())]


def _construction(name: str, lengths: _Lengths) -> list[tuple[str, ...]]:
    """How parity is tracked, if it is."""
    if not state_tracking.tracked_groups(name)["parity"].startswith("yes"):
        return []
    try:
        error = f"{state_tracking.parity_error(name, lengths.word):.1e}"
    except ValueError:  # a mechanism of the user's own, by other means than those known here
        error = "none known"
    return [(name, "parity", "2", "1", error)]


def _group_rows(lengths: _Lengths) -> list[tuple[str, ...]]:
    """How the other groups are tracked, by products of reflections."""
    rows: list[tuple[str, ...]] = []
    for group in state_tracking.groups()[1:]:
        needed = group.reflections.shape[1]
        error = state_tracking.tracking_error(group, needed, lengths.word)
        rows.append(
            ("deltaproduct", group.name, str(len(group.elements)), str(needed), f"{error:.1e}")
        )
    return rows


def _costs(name: str, lengths: _Lengths) -> list[tuple[str, ...]]:
    cost = capabilities.token_cost(name, lengths.cost)
    return [(name, f"{cost.flops:.0f}", f"{cost.microseconds:.2f}", f"{cost.time_slope:.2f}",
             f"{cost.memory:.0f}", f"{cost.memory_slope:.2f}")]  # fmt: skip


_FORMULAS = _Measure(
    Table(
        "Formulas",
        "The state is a matrix of m rows and d columns, $S_t = S_{t-1} A_t + B_t$; its bytes "
        "are those of single precision for d = m = 16, with the covariance of "
        "`bayesian_memory`.",
        ("mechanism", "A_t", "B_t", "bytes", "source"),
    ),
    _formulas,
)  # fmt: skip
_MEMORY = _Measure(
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
    ),
    _memory,
)  # fmt: skip
_CALIBRATION = _Measure(
    Table(
        "Stability and calibration",
        "*Norm*: the largest ‖A_1 ⋯ A_n‖₂, n ≤ 4, that 2 000 random draws over all allowed "
        "gates find. *Coverage*: the share of simulated emissions inside 95 % predictive "
        "intervals under the model, and where the noise has twice the standard deviation of "
        "the model's.",
        ("mechanism", "norm", "coverage", "coverage, noise doubled"),
    ),
    _calibration,
)  # fmt: skip
_TRACKING = _Measure(
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
    ),
    _tracking,
)  # fmt: skip


def _constructions(lengths: _Lengths) -> _Measure:
    """The measure of what is constructed, whose text holds the length of the words."""
    return _Measure(
        Table(
            "Constructions",
            "By reflections (β = 2; α = −1; w = 0 and a = 1) and nothing written, run in single "
            f"precision over a random word of length {lengths.word}: the largest error "
            "of an entry of the state at any step. Entries of different elements are at least 0.3 "
            "apart.",
            ("mechanism", "group", "elements", "n_h", "error"),
        ),
        _construction,
    )  # fmt: skip


_COST = _Measure(
    Table(
        "Cost",
        "Single precision, d = m = 16, the sequential recurrence (for `bayesian_memory` the "
        "filter): floating point operations a token as XLA counts them (for the filter before "
        "it optimises); time a token; bytes a token that the compiled program needs beside its "
        "arguments; and the slopes of their logarithms over log T (1 is linear).",
        ("mechanism", "flops", "µs", "slope", "bytes", "slope of bytes"),
        timed=("µs", "slope"),
    ),
    _costs,
)  # fmt: skip


class _Head(NamedTuple):
    """Queries, keys and values of one head, (T, d)."""

    queries: Float[Array, "T d"]
    keys: Float[Array, "T d"]
    values: Float[Array, "T d"]


def _structured(steps: int, d: int, seed: int = 0) -> _Head:
    """Tokens of a few topics, each looking at its own, in runs of 128."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(16, d))
    topic = np.repeat(rng.integers(0, 16, size=-(-steps // 128)), 128)[:steps]
    q = 2.5 * directions[topic] / np.sqrt(d) * d**0.25 * 2 + 0.3 * rng.normal(size=(steps, d))
    k = 2.5 * directions[topic] / np.sqrt(d) * d**0.25 * 2 + 0.3 * rng.normal(size=(steps, d))
    v = rng.normal(size=(steps, d))
    return _Head(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)))


#: Outputs of one head of attention from its queries, keys and values.
_Attention = Callable[[Array, Array, Array], Array]


class _SoftmaxKin(NamedTuple):
    """What stands beside softmax attention.

    Attributes:
        name: as it is shown.
        cache: numbers kept per token.
        function: from the number of tokens to the attention.
        computes_softmax: whether it computes softmax attention, exactly or nearly.
        threshold: the share of attention that the evaluated blocks hold, if only some are.
    """

    name: str
    cache: str
    function: Callable[[int], _Attention]
    computes_softmax: bool = False
    threshold: float | None = None


def _softmax_kin(d: int) -> Iterator[_SoftmaxKin]:
    """Softmax attention and its kin, for heads of size d."""
    weights = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    # Values that the keys determine would change what is compared, so only the cost is.
    projection = attention.slim_projection(jnp.asarray(weights, jnp.float32), jnp.eye(d))
    mixing = attention.init_multi_token(1, None)

    def one_head(function: _Attention) -> _Attention:
        return jax.jit(lambda q, k, v: function(q[:, None], k[:, None], v[:, None])[:, 0])

    def slim(q: Array, k: Array, v: Array) -> Array:
        return attention.slim_attention(q, k, projection)

    def multi_token(q: Array, k: Array, v: Array) -> Array:
        return attention.multi_token_attention(mixing, q, k, v)

    def karat(steps: int) -> _Attention:
        def attend(q: Array, k: Array, v: Array) -> Array:
            params = attention.init_karat(jax.random.key(0), steps)
            return attention.karat_attention(params, q, k, v)

        return jax.jit(attend)

    yield _SoftmaxKin("softmax", "2 d", lambda _: jax.jit(attention.softmax_attention), True)
    yield _SoftmaxKin("slim", "d", lambda _: one_head(slim))
    yield _SoftmaxKin("xattention (τ = 0.9)", "2 d", lambda _: _sparse(0.9), True, 0.9)
    yield _SoftmaxKin("xattention (τ = 0.99)", "2 d", lambda _: _sparse(0.99), True, 0.99)
    grouped = jax.jit(attention.grouped_attention)
    yield _SoftmaxKin("grouped (g = 4)", "2 d / g", lambda _: grouped, True)
    yield _SoftmaxKin("multi_token", "2 d", lambda _: one_head(multi_token))
    yield _SoftmaxKin("karat (r = 12, G = 3)", "2 d", karat)


def _sparse(threshold: float) -> _Attention:
    """XAttention as one compiled function."""

    def run(q: Array, k: Array, v: Array) -> Array:
        return attention.xattention(q, k, v, threshold=threshold)

    return jax.jit(run)


def _kept(head: _Head, threshold: float) -> str:
    """The share of blocks at or below the diagonal that XAttention evaluates."""
    blocks: Bool[Array, "n n"] = attention.choose_blocks(
        head.queries, head.keys, threshold, block_size=128, stride=16
    )
    n = len(blocks)
    return f"{float(blocks.sum()) / (n * (n + 1) / 2):.3f}"


def _relative_error(output: Float[Array, "T d"], exact: Float[Array, "T d"]) -> str:
    """The root mean square of the difference over that of the exact output."""
    return f"{float(jnp.sqrt(jnp.mean((output - exact) ** 2) / jnp.mean(exact**2))):.1e}"


def _softmax_side(steps: int) -> Table:
    """Time, cache and error of what stands in for softmax attention."""
    d = 64
    head = _structured(steps, d)
    exact = attention.softmax_attention(*head)
    rows = []
    for kin in _softmax_kin(d):
        seconds = [
            capabilities.median_seconds(kin.function(n), _structured(n, d), 3)
            for n in (steps // 4, steps)
        ]
        error = _relative_error(kin.function(steps)(*head), exact) if kin.computes_softmax else ""
        kept = "" if kin.threshold is None else _kept(head, kin.threshold)
        slope = np.log(seconds[1] / seconds[0]) / np.log(4)
        rows.append((kin.name, kin.cache, error, kept, f"{1e3 * seconds[1]:.1f}", f"{slope:.2f}"))
    return Table(
        "The softmax side",
        f"One head of 64, causal, single precision, T = {steps}, tokens of 16 topics in runs of "
        "128. *Cache*: numbers kept a token. *Error*: root mean square of the difference to "
        "softmax attention over that of its output, none where the mechanism computes something "
        "else. *Kept*: the share of blocks at or below the diagonal that are evaluated. *Slope*: "
        "of log time over log T, from a quarter of T.",
        ("mechanism", "cache", "error", "kept", "ms", "slope"),
        tuple(rows),
        ("ms", "slope"),
    )


def _long_sequences(steps: int) -> Table:
    """Block-sparse against full attention where T is large."""
    rng = np.random.default_rng(0)
    plain = _Head(*(jnp.asarray(rng.normal(size=(steps, 64)), jnp.float32) for _ in range(3)))

    def seconds(function: _Attention, head: _Head) -> float:
        return capabilities.median_seconds(function, head, 3)

    full = jax.jit(attention.softmax_attention)
    rows = []
    for name, head in (("structured", _structured(steps, 64)), ("normal", plain)):
        exact = full(*head)
        whole = seconds(full, head), seconds(_sparse(1.0), head)
        for threshold in (0.9, 0.99):
            error = _relative_error(_sparse(threshold)(*head), exact)
            taken = seconds(_sparse(threshold), head)
            milliseconds = (f"{1e3 * x:.0f}" for x in (taken, *whole))
            rows.append((name, f"{threshold}", _kept(head, threshold), error, *milliseconds,
                         f"{taken / min(whole):.2f}"))  # fmt: skip
    return Table(
        "Block-sparse attention on long sequences",
        f"T = {steps}, tokens as above, and without structure (normal, so that no block stands "
        "out). *Full by blocks* is the same loop over all blocks, which needs no memory for all "
        "scores. *Ratio*: to the faster of the two full ones.",
        ("tokens", "τ", "kept", "error", "ms", "full, ms", "full by blocks, ms", "ratio"),
        tuple(rows),
        ("ms", "full, ms", "full by blocks, ms", "ratio"),
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
