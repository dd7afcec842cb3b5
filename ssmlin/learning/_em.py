r"""Expectation maximisation, the expectations by Fisher's identity.

The gradient of the log likelihood is the expected gradient of the complete-data log likelihood,
$\partial \log p(y \mid \theta) = E[\partial \log p(y, S \mid \theta) \mid y]$. For a covariance
scale with n degrees of freedom the latter is $-n / 2q + S / 2q^2$, linear in the statistic S that
the M-step needs; so are those of Σ and of linear readouts. Hence the E-step is one gradient of the
filter, that is the disturbance smoother of its adjoint, which needs no lag-one moments and is right
at singular noise, too.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ssmlin import _checks
from ssmlin._progress import progress_bar
from ssmlin.learning._checkpoint import Checkpoint
from ssmlin.learning._log_posterior import (
    Position,
    Problem,
    Target,
    check_observed,
    choose,
    property_leaves,
)
from ssmlin.learning._models import EMModel, name_of, seen_by
from ssmlin.learning._quasi_newton import minimise


class EMCheckpoint[P](NamedTuple):
    """All that EM needs to go on."""

    params: P
    log_probs: Float[Array, " iterations"]


@partial(jax.jit, static_argnames=("model", "target", "blocks", "gradient_steps", "use_prior"))
def _iteration[P](
    problem: Problem,
    model: EMModel[P],
    target: Target,
    blocks: tuple[tuple[str, ...], ...],
    gradient_steps: int,
    use_prior: bool,
) -> tuple[P, Float[Array, ""]]:
    """One iteration: new parameters, and the objective at the old ones."""

    def log_likelihood(params: P) -> Array:
        terms: Array = jax.vmap(lambda y, u: model.log_predictive(params, y, u))(
            problem.emissions, problem.inputs
        )
        return terms.sum()

    params = problem.params
    before: Array | None = None
    for names in blocks:
        value_and_score: Callable[[P], tuple[Array, P]] = jax.value_and_grad(log_likelihood)
        value, score = value_and_score(params)
        before = value if before is None else before
        params = model.closed_form_update(
            params, score, names, problem.emissions, problem.inputs, use_prior=use_prior
        )
    if before is None:
        before = log_likelihood(params)
    if use_prior:
        before = before + model.log_prior(problem.params)
    if gradient_steps:
        params = _ascend(problem._replace(params=params), target, gradient_steps, use_prior)
    return params, before


def _ascend(problem: Problem, target: Target, steps: int, use_prior: bool) -> PyTree:
    """A few quasi-Newton steps; not taken unless they gain.

    They move what has no closed form, and the rest too: closed forms crawl near a noise of zero.
    """

    def loss(position: Position) -> Array:
        value = target.log_likelihood(position, problem)
        if use_prior:
            value = value + target.model.log_prior(target.params(position, problem))
        return -value

    start = target.position(problem)
    end = minimise(loss, start, num_steps=steps)
    gains = loss(end) < loss(start)  # False for NaN
    moved = target.params(end, problem)
    return jax.tree.map(lambda new, old: jnp.where(gains, new, old), moved, problem.params)


def fit_em[P](
    model: EMModel[P],
    params: P,
    props: P,
    emissions: Float[Array, "B T m"],
    inputs: PyTree = None,
    num_iters: int = 50,
    *,
    print_every: int = 1,
    gradient_steps: int = 5,
    use_prior: bool = True,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> tuple[P, Float[Array, " num_iters"]]:
    """Maximise the log posterior by expectation conditional maximisation; it never decreases.

    Every iteration maximises the expected complete-data log posterior over the blocks of
    parameters that the model has closed forms for, one after the other with the expectations
    renewed, and then takes a few quasi-Newton steps on the log posterior itself: the others move by
    these alone, and the blocks do not crawl where a noise is nearly zero. What is not trainable
    stays.

    Args:
        model: a model with ``closed_form_blocks`` and ``closed_form_update``, as
            :class:`ssmlin.LinearAttentionSSM` is.
        params: where to start.
        props: matching properties.
        emissions: sequences of one length, (B, T, m); NaN means missing or padding.
        inputs: None or inputs with leading axes (B, T).
        num_iters: iterations.
        print_every: iterations between updates of the progress bar.
        gradient_steps: quasi-Newton steps an iteration; 0 for the closed forms alone.
        use_prior: maximise the posterior; False for the likelihood.
        checkpoint_dir: a directory; a fit that was killed goes on from there if it is called again
            with the same arguments, and one that ended can be prolonged.
        progress: show a progress bar.

    Returns:
        The parameters, and the log posterior (or likelihood) at the start of every iteration.

    Raises:
        ValueError: an argument out of range, no data, an objective that is not finite at the
            start, or a checkpoint of another call.

    Source: Meng and Rubin (1993) and Liu and Rubin (1994) for conditional and partly direct
    maximisation; Koopman and Shephard (1992) for expectations by the disturbance smoother.
    """
    _checks.positive_int("num_iters", num_iters)
    _checks.positive_int("print_every", print_every)
    _checks.positive_int("gradient_steps", gradient_steps, minimum=0)
    check_observed(emissions)
    model = seen_by(model, emissions)
    trainable = choose(params, props, None)
    blocks = tuple(
        chosen
        for names in model.closed_form_blocks(params)
        if (chosen := tuple(name for name in names if name in trainable))
    )
    target = Target(model, trainable)
    problem = Problem(params, props, emissions, inputs)
    checkpoint = Checkpoint(
        checkpoint_dir,
        "fit_em",
        {
            "model": repr(model),
            "params": params,
            "props": [prop.trainable for prop in property_leaves(props)],
            "emissions": emissions,
            "inputs": inputs,
            "options": (gradient_steps, use_prior),
        },
    )
    state = EMCheckpoint(params, jnp.zeros(0, emissions.dtype))
    loaded = checkpoint.load(state)
    state = state if loaded is None else loaded
    checkpoint.save(state, force=loaded is None)
    with progress_bar(progress) as bar:
        task = bar.add_task(
            f"em {name_of(model)}", total=num_iters, completed=len(state.log_probs),
            note="compiling",
        )  # fmt: skip
        while len(state.log_probs) < num_iters:
            new, log_prob = _iteration(
                problem._replace(params=state.params), model, target, blocks, gradient_steps,
                use_prior,
            )  # fmt: skip
            # Under a trace, as of vmap, there is nothing to look at or to show.
            known = _checks.is_concrete(log_prob)
            if known and len(state.log_probs) == 0 and not jnp.isfinite(log_prob):
                raise ValueError(
                    f"params: expected a finite log posterior at the start, got {float(log_prob)}; "
                    "check params, emissions and inputs"
                )
            log_probs = jnp.append(state.log_probs, log_prob.astype(emissions.dtype))
            state = EMCheckpoint(new, log_probs)
            checkpoint.save(state, force=len(log_probs) == num_iters)
            if known and (len(log_probs) % print_every == 0 or len(log_probs) == num_iters):
                bar.update(task, completed=len(log_probs), note=f"{float(log_prob):.4f}")
    return state.params, state.log_probs
