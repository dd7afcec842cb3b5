"""Maximum a posteriori fitting of series that do not fit in memory, a window at a time."""

import warnings
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.parameters import from_unconstrained, to_unconstrained
from jaxtyping import Array, Float, Int, PyTree

from ssmlin import _checks
from ssmlin._progress import progress_bar
from ssmlin._typing import AnyArray
from ssmlin.learning._checkpoint import Checkpoint
from ssmlin.learning._log_posterior import property_leaves, strong
from ssmlin.learning._models import WindowedModel, name_of, seen_by

#: Emissions (W, m) and inputs with a leading axis of W.
Window = tuple[Float[AnyArray, "W m"], PyTree]


class StreamState(NamedTuple):
    """All that the next window needs."""

    params: PyTree
    optimizer_state: optax.OptState
    law: PyTree
    window: Int[Array, ""]
    bad_steps: Int[Array, ""]


class StreamCheckpoint(NamedTuple):
    """All that a checkpoint of a fit by windows holds."""

    stream: StreamState
    log_densities: Float[np.ndarray, "num_epochs num_windows"] | Array


@cache
def decaying_adam(num_steps: int) -> optax.GradientTransformation:
    """Adam whose step size goes from 0.01 to 0 in so many steps, gradients clipped to norm 1."""
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, num_steps))
    )


@partial(jax.jit, static_argnames=("model", "optimizer"))
def _advance(
    stream: StreamState,
    model: WindowedModel[PyTree, PyTree],
    optimizer: optax.GradientTransformation,
    props: PyTree,
    window: Window,
    is_first: Array,
    num_values: Array,
) -> tuple[StreamState, Array]:
    """Predict a window, then take a gradient step on it."""
    emissions, inputs = jnp.asarray(window[0]), window[1]
    count = jnp.sum(~jnp.isnan(emissions))

    def loss(unconstrained: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        params = from_unconstrained(unconstrained, props)
        first = model.initial_law(params)
        law = jax.tree.map(lambda x, y: jnp.where(is_first, x, y), first, stream.law)
        terms, after = model.filter_window(params, law, emissions, inputs)
        total = jnp.sum(terms)
        objective = count / num_values * model.log_prior(params) + total
        return -objective / jnp.maximum(count, 1), (total, after)

    (value, (total, law)), grad = jax.value_and_grad(loss, has_aux=True)(stream.params)
    finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(grad))

    def move(stream: StreamState) -> StreamState:
        updates, state = optimizer.update(grad, stream.optimizer_state, stream.params)
        params = optax.apply_updates(stream.params, updates)
        return stream._replace(params=params, optimizer_state=state, law=law)

    def stay(stream: StreamState) -> StreamState:
        return stream._replace(bad_steps=stream.bad_steps + 1)

    stream = jax.lax.cond(finite, move, stay, stream)
    return strong(stream._replace(window=stream.window + 1)), total


def fit_stream[P](
    model: WindowedModel[P, PyTree],
    params: P,
    props: P,
    windows: Callable[[], Iterable[Window]],
    num_windows: int,
    num_values: int,
    *,
    num_epochs: int = 1,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> tuple[P, Float[np.ndarray, "num_epochs num_windows"]]:
    r"""Minimise the negative log posterior over a long series that is read window by window.

    A gradient step sees one window and starts from the filter's law at the end of the window
    before, as in :func:`ssmlin.learning.fit_sgd` with `window_size`; but each window is read when
    its turn comes and then forgotten. Memory grows with the window and not with the series. Every
    window is predicted before it is fitted, so the log densities of the first epoch are honest
    one-step predictions (prequential scores).

    Args:
        model: a model with ``log_prior``, ``initial_law`` and ``filter_window``.
        params: where to start.
        props: matching properties: what is trainable, and its constrainer.
        windows: called once an epoch; gives consecutive windows (emissions, inputs) of one shape,
            (W, m) and (W, p); NaN emissions are missing, or fill up the last window. Steps may be
            partly missing if Σ is diagonal; then every row has a covariance of its own.
        num_windows: how many there are.
        num_values: how many observed values there are, which the prior is weighed against.
        num_epochs: passes over the series; the step size of Adam falls to 0 over them.
        checkpoint_dir: a directory; a fit that was killed goes on from there if it is called again
            with the same arguments. Of the data only their numbers are compared.
        progress: show a progress bar.

    Returns:
        The parameters, and the log density of every window before it was fitted.

    Raises:
        ValueError: an argument out of range, another number of windows than said, partly missing
            steps and a Σ that is not diagonal, or a checkpoint that is damaged or of another call.

    Warns:
        RuntimeWarning: windows whose loss or gradient was not finite, which were passed over.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> from ssmlin.learning import fit_stream
        >>> y = jnp.sin(jnp.arange(60.0))[:, None]
        >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 0, 1)
        >>> params, props = model.initialize()
        >>> read = lambda: ((y[i : i + 20], jnp.zeros((20, 0))) for i in (0, 20, 40))
        >>> params, log_densities = fit_stream(model, params, props, read, 3, 60, progress=False)
        >>> log_densities.shape
        (1, 3)
    """
    for name, value in (("num_windows", num_windows), ("num_values", num_values),
                        ("num_epochs", num_epochs)):  # fmt: skip
        _checks.positive_int(name, value)
    total = num_epochs * num_windows
    # What a later window lacks cannot be known yet.
    model, given = seen_by(model, None), model
    optimizer = decaying_adam(total)
    unconstrained = to_unconstrained(params, props)
    zero = jnp.zeros((), int)
    law = model.initial_law(params)
    start = strong(StreamState(unconstrained, optimizer.init(unconstrained), law, zero, zero))
    checkpoint = Checkpoint(
        checkpoint_dir,
        "fit_stream",
        {
            "model": given,
            "params": params,
            "props": [(prop.trainable, prop.constrainer) for prop in property_leaves(props)],
            "windows": (num_windows, num_values),
            "num_epochs": num_epochs,
        },
    )
    run = StreamCheckpoint(start, np.full((num_epochs, num_windows), np.nan))
    loaded = checkpoint.load(run)
    run = run if loaded is None else loaded
    stream, log_densities = run.stream, np.array(run.log_densities)
    count = jnp.asarray(num_values, jnp.float32)
    with progress_bar(progress) as bar:
        done = int(stream.window)
        task = bar.add_task(f"fit {name_of(given)}", total=total, completed=done, note="compiling")
        for epoch in range(done // num_windows, num_epochs):
            num_read = 0
            for number, window in enumerate(windows()):
                num_read += 1
                if num_read > num_windows:
                    break
                if epoch * num_windows + number < done:
                    continue  # was fitted before the run was stopped
                seen_by(given, window[0])  # raises where something is missing that cannot be
                stream, value = _advance(
                    stream, model, optimizer, props, window, jnp.asarray(number == 0), count
                )
                log_densities[epoch, number] = value
                checkpoint.save(StreamCheckpoint(stream, log_densities))
                bar.update(task, advance=1, note=f"log density {float(value):.1f}")
            if num_read != num_windows:
                raise ValueError(f"windows: expected {num_windows} windows, got {num_read} or more")
    checkpoint.save(StreamCheckpoint(stream, log_densities), force=True)
    if (bad_steps := int(stream.bad_steps)) > 0:
        warnings.warn(
            f"{bad_steps} windows had a loss or gradient that was not finite and were passed over",
            RuntimeWarning,
            stacklevel=2,
        )
    fitted: P = from_unconstrained(stream.params, props)
    return fitted, log_densities
