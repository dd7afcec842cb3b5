r"""Expectation maximisation, the expectations by Fisher's identity.

The gradient of the log likelihood is the expected gradient of the complete-data log likelihood,
$\partial \log p(y \mid \theta) = E[\partial \log p(y, S \mid \theta) \mid y]$. For a covariance
scale with n degrees of freedom the latter is $-n / 2q + S / 2q^2$, linear in the statistic S that
the M-step needs; so are those of Σ and of linear readouts. Hence the E-step is one gradient of the
filter, that is the disturbance smoother of its adjoint, which needs no lag-one moments and is right
at singular noise, too.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._progress import progress_bar
from ssmlin.learning.checkpoint import Checkpoint
from ssmlin.learning.log_posterior import (
    Problem,
    Target,
    check_observed,
    choose,
    property_leaves,
    seen_by,
)


@runtime_checkable
class EMModel(Protocol):
    """What `fit_em` needs of a model."""

    def log_prior(self, params: Any) -> Array:
        """Log prior density of the constrained parameters."""

    def log_predictive(self, params: Any, emissions: Array, inputs: Any) -> Float[Array, " T"]:
        """Log p(y_t | y_{1:t-1}) of every step of one sequence, zero where nothing is observed."""

    def closed_form_blocks(self, params: Any) -> Sequence[Sequence[str]]:
        """Blocks of parameters, by path, that have closed-form updates; the others have none."""

    def closed_form_update(
        self,
        params: Any,
        score: Any,
        names: Sequence[str],
        emissions: Float[Array, "B T m"],
        inputs: Any,
        use_prior: bool,
    ) -> Any:
        """Maximise the expected complete-data log posterior over `names`, given the others."""


class _State(NamedTuple):
    """All that EM needs to go on."""

    params: Any
    log_probs: Float[Array, " iterations"]


@partial(jax.jit, static_argnames=("target", "blocks", "gradient_steps", "use_prior"))
def _iteration(
    problem: Problem,
    target: Target,
    blocks: tuple[tuple[str, ...], ...],
    gradient_steps: int,
    use_prior: bool,
) -> tuple[Any, Array]:
    """One iteration: new parameters, and the objective at the old ones."""
    model: Any = target.model

    def log_likelihood(params: Any) -> Array:
        terms = jax.vmap(lambda y, u: model.log_predictive(params, y, u))
        return terms(problem.emissions, problem.inputs).sum()

    params, before = problem.params, None
    for names in blocks:
        value, score = jax.value_and_grad(log_likelihood)(params)
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


def _ascend(problem: Problem, target: Target, steps: int, use_prior: bool) -> Any:
    """A few quasi-Newton steps; not taken unless they gain.

    They move what has no closed form, and the rest too: closed forms crawl near a noise of zero.
    """

    def loss(position: Any) -> Array:
        value = target.log_likelihood(position, problem)
        if use_prior:
            value = value + target.model.log_prior(target.params(position, problem))
        return -value

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        position, state = carry
        value, grad = value_and_grad(position, state=state)
        updates, state = optimizer.update(
            grad, state, position, value=value, grad=grad, value_fn=loss
        )
        return (optax.apply_updates(position, updates), state), None

    start = target.position(problem)
    (end, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=steps)
    gains = loss(end) < loss(start)  # False for NaN
    moved = target.params(end, problem)
    return jax.tree.map(lambda new, old: jnp.where(gains, new, old), moved, problem.params)


def fit_em(
    model: EMModel,
    params: Any,
    props: Any,
    emissions: Float[Array, "B T m"],
    inputs: Any = None,
    num_iters: int = 50,
    *,
    print_every: int = 1,
    gradient_steps: int = 5,
    use_prior: bool = True,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> tuple[Any, Float[Array, " num_iters"]]:
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
    target: Any = Target(model, trainable)
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
    state = _State(params, jnp.zeros(0, emissions.dtype))
    loaded = checkpoint.load(state)
    state = state if loaded is None else loaded
    checkpoint.save(state, force=loaded is None)
    with progress_bar(progress) as bar:
        task = bar.add_task("em", total=num_iters, completed=len(state.log_probs), note="")
        while len(state.log_probs) < num_iters:
            new, log_prob = _iteration(
                problem._replace(params=state.params), target, blocks, gradient_steps, use_prior
            )
            # Under a trace, as of vmap, there is nothing to look at or to show.
            known = _checks.is_concrete(log_prob)
            if known and len(state.log_probs) == 0 and not jnp.isfinite(log_prob):
                raise ValueError(
                    f"params: expected a finite log posterior at the start, got {float(log_prob)}; "
                    "check params, emissions and inputs"
                )
            log_probs = jnp.append(state.log_probs, log_prob.astype(emissions.dtype))
            state = _State(new, log_probs)
            checkpoint.save(state, force=len(log_probs) == num_iters)
            if known and (len(log_probs) % print_every == 0 or len(log_probs) == num_iters):
                bar.update(task, completed=len(log_probs), note=f"{float(log_prob):.4f}")
    return state.params, state.log_probs
