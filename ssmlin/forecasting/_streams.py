"""The recipe for long series that are read window by window."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ssmlin import learning
from ssmlin.data import TableStream
from ssmlin.forecasting._discount import best_discount
from ssmlin.forecasting._fitting import FittedAttention
from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._orders import choose_num_lags
from ssmlin.forecasting._powers import choose_powers
from ssmlin.forecasting._recipe import GroupFit, Recipe
from ssmlin.forecasting._settings import Recommendation
from ssmlin.learning import num_trainable
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM

#: How many of the first rows choose the transformation and the number of lags.
ROWS_TO_CHOOSE = 20_000
_EPOCHS = 2
_VALIDATION_SHARE = 5  # the last fifth of the windows

Window = tuple[Float[np.ndarray, "W m"], Float[np.ndarray, "W p"]]
LogDensities = Float[np.ndarray, "epochs windows"]


def choose_stream_powers(stream: TableStream, transform: str | float | int) -> tuple[float, ...]:
    """λ of each target of a long table, chosen on its first rows.

    Args:
        stream: the table, not transformed.
        transform: as in :func:`choose_powers`.

    Returns:
        λ of each target. With "auto" a column with values that are not positive later on is not
        transformed; that takes a pass over the table.
    """
    values, inputs = (x[:ROWS_TO_CHOOSE] for x in next(iter(stream.pieces())))
    power = choose_powers([Observed(values, inputs)], transform)
    if transform != "auto" or all(p == 1 for p in power):
        return power
    lowest = np.fmin.reduce([np.fmin.reduce(values) for values, _ in stream.pieces()])
    return tuple(np.where(lowest > 0, power, 1.0).tolist())


def fit_table_stream(stream: TableStream, recipe: Recipe, window: int) -> GroupFit:
    """Fit the recommended model to a long table, window by window.

    Args:
        stream: the table, transformed as it is to be.
        recipe: the settings. A streamed fit has no season, no differences and one series.
        window: steps of a window.

    Returns:
        The fitted model, and the scaling under the name "".

    Raises:
        ValueError: settings that a streamed fit cannot have, a table that cannot be used, or fewer
            than half of its rows have all lags.
    """
    if isinstance(recipe.season, int):
        raise ValueError(
            f"season: expected 'auto' or None for a streamed fit, which has none, got "
            f"{recipe.season}"
        )
    if recipe.difference:
        raise ValueError(f"difference: expected 0 for a streamed fit, got {recipe.difference}")
    if recipe.freq is not None or recipe.holidays or recipe.fill_inputs:
        raise ValueError(
            "freq: expected no freq, holidays or fill_inputs for a streamed fit, whose rows are at "
            f"equal steps, got {recipe.calendar} and fill_inputs={recipe.fill_inputs}"
        )
    summary, m = stream.summary, len(stream.targets)
    first = _first_rows(stream)
    num_lags = recipe.lags if isinstance(recipe.lags, int) else choose_num_lags(first)

    def windows(size: int = window) -> Iterator[Window]:
        return stream.windows(size, num_lags)

    wanted = Recommendation(
        recipe.mechanism,
        num_targets=m,
        num_inputs=len(stream.inputs),
        num_lags=num_lags,
        partly_missing=summary.num_partly > 0,
        key_dim=recipe.used_key_dim,
    )
    model = wanted.model()
    y, u = (jnp.asarray(x) for x in next(windows(len(first.values))))
    start, props = model.initialize(jax.random.key(recipe.seed), emissions=y, inputs=u)
    count = -(-summary.num_rows // window)
    per_window, num_values = _fitted_steps(stream, window, num_lags)

    def fit(model: LinearAttentionSSM, name: str) -> tuple[ParamsLinearAttentionSSM, LogDensities]:
        folder = recipe.folder
        found: tuple[ParamsLinearAttentionSSM, LogDensities]
        found = learning.fit_stream(
            model,
            start,
            props,
            windows,
            count,
            num_values,
            num_epochs=_EPOCHS if recipe.num_epochs is None else recipe.num_epochs,
            checkpoint_dir=None if folder is None else folder / name,
            progress=recipe.progress,
        )
        return found

    params, log_densities = fit(model, "constant")
    if model.row_cov.is_integrated:
        # One pass over all windows, so the choice is the same as for the series in memory.
        discount = best_discount(model, params, [windows()], recipe.discounts)
        if discount < 1:
            model = wanted.model(discount)
            params, log_densities = fit(model, "changing")
    # The end of the first pass was predicted before it was fitted.
    last = max(1, count // _VALIDATION_SHARE)
    steps = max(int(per_window[-last:].sum()), 1)
    validation = float(log_densities[0, -last:].sum() / steps)
    attention = FittedAttention(model, params)
    return GroupFit(
        attention, {"": summary.scaling}, validation, num_trainable(params, model.param_props)
    )


def _first_rows(stream: TableStream) -> Observed:
    """The first rows, standardised; the stream has transformed them already."""
    values, inputs = (x[:ROWS_TO_CHOOSE] for x in next(iter(stream.pieces())))
    scaling = stream.summary.scaling
    standard = (values - np.array(scaling.mean)) / np.array(scaling.scale)
    return Observed(standard, scaling.apply_inputs(inputs))


def _fitted_steps(
    stream: TableStream, window: int, num_lags: int
) -> tuple[Int[np.ndarray, " windows"], int]:
    """How many steps of each window are fitted, and how many values in all.

    A step whose lags are missing is not fitted.

    Raises:
        ValueError: fewer than half of the rows are.
    """
    summary, m = stream.summary, len(stream.targets)
    if summary.num_values == summary.num_rows * m:
        ends = np.minimum(np.arange(window, summary.num_rows + window, window), summary.num_rows)
        steps = np.diff(ends, prepend=0)
        steps[0] -= min(num_lags, steps[0])
        return steps, int(steps.sum()) * m
    found = [~np.isnan(y) for y, _ in stream.windows(window, num_lags)]
    steps = np.array([seen.any(axis=1).sum() for seen in found])
    if 2 * steps.sum() < summary.num_rows:
        raise ValueError(
            f"window: expected values and their {num_lags} lags in at least half of the "
            f"{summary.num_rows} rows, since a streamed fit leaves the others out; got "
            f"{int(steps.sum())}; a fit in memory (--window 0) integrates out what is missing"
        )
    return steps, int(sum(seen.sum() for seen in found))
