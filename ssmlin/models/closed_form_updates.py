r"""Closed-form M-steps of :class:`ssmlin.LinearAttentionSSM`, from the score of the likelihood.

With n degrees of freedom the expected complete-data log likelihood of a covariance scale q is
$-\frac n2 \log q - \frac{S}{2q}$, and by Fisher's identity its derivative at the old q is that of
the log likelihood. So $S = q (n + 2 q \, \partial_q \log p(y))$, and likewise for Σ. A statistic
with more degrees of freedom than the noise has, where it is singular, makes the step shorter, never
wrong.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin.models.parameters import ParamsLinearAttentionSSM, ShrinkagePrior

#: What one expectation serves: given Σ and r the laws of S_0 and W_t and the readout are separate.
BLOCKS = (
    ("initial.variances", "dynamics.process_noise", "emissions.input_weights", "emissions.bias"),
    ("emissions.row_cov", "initial.mean"),
    ("emissions.noise",),
)


class Counts(NamedTuple):
    """Degrees of freedom.

    Attributes:
        sequences: B.
        steps: transitions up to the last observation of each sequence.
        observed: observed values in every row, (m,).
        noise_rank: the rank of Q_t.
    """

    sequences: Array
    steps: Array
    observed: Float[Array, " m"]
    noise_rank: int


def count(emissions: Float[Array, "B T m"], noise_rank: int) -> Counts:
    """Count what was observed; what comes after the last observation says nothing."""
    seen = ~jnp.isnan(emissions)
    any_seen = seen.any(axis=-1)
    num_steps = emissions.shape[1]
    last = jnp.where(any_seen, jnp.arange(1, num_steps + 1), 0).max(axis=1)
    dtype = emissions.dtype
    sequences = jnp.sum(any_seen.any(axis=1)).astype(dtype)
    observed = seen.sum(axis=(0, 1)).astype(dtype)
    return Counts(sequences, last.sum().astype(dtype), observed, noise_rank)


def _statistic(scale: Array, score: Array, n: Array) -> Array:
    """S: n times the scale at a fixed point; not below what rounding leaves of it."""
    return scale * jnp.maximum(n + 2 * scale * score, jnp.finfo(scale.dtype).eps * n)


def _scale(statistic: Array, n: Array, law: tuple[float, float] | None) -> Array:
    """The mode of q, with a log-normal prior of that median and log sd or with none."""
    if law is None:
        return statistic / n
    median, spread = law
    tiny = jnp.finfo(statistic.dtype).tiny
    # d/dx of the objective in x = log q falls through zero between these two.
    without = jnp.log(jnp.maximum(statistic, tiny)) - jnp.log(n + 2)
    centre = jnp.broadcast_to(jnp.log(jnp.asarray(median, statistic.dtype)), without.shape)

    def slope(x: Array) -> Array:
        return 0.5 * statistic * jnp.exp(-x) - 0.5 * n - 1 - (x - centre) / spread**2

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        rises = slope(middle) > 0
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    ends = jnp.minimum(without, centre), jnp.maximum(without, centre)
    low, high = jax.lax.fori_loop(0, 60, halve, ends)
    return jnp.exp(0.5 * (low + high))


def _readout(
    params: ParamsLinearAttentionSSM,
    score: Any,
    names: Sequence[str],
    emissions: Float[Array, "B T m"],
    inputs: Float[Array, "B T p"],
    prior: ShrinkagePrior | None,
) -> dict[str, Array]:
    """D and d: a weighted ridge regression for each eigenvector of Σ."""
    old: Any = params.emissions
    design, theta, slopes = [], [], []
    if "emissions.input_weights" in names:
        design.append(inputs)
        theta.append(old.input_weights)
        slopes.append(score.emissions.input_weights)
    if "emissions.bias" in names:
        design.append(jnp.ones((*inputs.shape[:-1], 1), inputs.dtype))
        theta.append(old.bias[:, None])
        slopes.append(score.emissions.bias[:, None])
    x, coefficients, slope = (jnp.concatenate(part, axis=-1) for part in (design, theta, slopes))
    if old.row_cov.ndim == 1:
        variances, vectors = old.row_cov, jnp.eye(len(old.row_cov), dtype=x.dtype)
    else:
        variances, vectors = jnp.linalg.eigh(old.row_cov)
    # Only with a diagonal Σ, where the vectors are the axes, may entries of a row be missing.
    seen = (~jnp.isnan(emissions)).astype(x.dtype)
    gram = jnp.einsum("bti,btj,btm->mij", x, x, seen) / (old.noise * variances)[:, None, None]
    slope, turned = vectors.T @ slope, vectors.T @ coefficients
    if prior is not None:
        precision = 1 / prior.skip_scale**2
        slope = slope - precision * turned
        gram = gram + precision * jnp.eye(x.shape[-1], dtype=x.dtype)
    else:
        trace = jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
        ridge = jnp.where(trace > 0, 10 * jnp.finfo(x.dtype).eps * trace, 1.0)  # 1: no data
        gram = gram + ridge * jnp.eye(x.shape[-1], dtype=x.dtype)
    step = jnp.linalg.solve(gram, slope[..., None])[..., 0]
    new = coefficients + vectors @ step
    result = {}
    if "emissions.input_weights" in names:
        result["input_weights"] = new[:, : inputs.shape[-1]]
    if "emissions.bias" in names:
        result["bias"] = new[:, -1]
    return result


def _rows(
    params: ParamsLinearAttentionSSM, score: Any, counts: Counts, prior: ShrinkagePrior | None
) -> Array:
    """Σ: the mode of its inverse Wishart or inverse gamma laws."""
    rows, slope, d = params.emissions.row_cov, score.emissions.row_cov, params.initial.mean.shape[1]
    n = counts.sequences * d + counts.steps * counts.noise_rank + counts.observed
    base = 0.0 if prior is None else prior.noise_floor * prior.series_variance
    floor = base / params.emissions.noise
    if rows.ndim == 1:
        statistic = _statistic(rows, slope, n)
        # The inverse gamma law has shape 3/2 and scale floor / 2.
        return (statistic + floor) / (n + (0 if prior is None else 5))
    m, n = len(rows), n[0]
    statistic = n * rows + rows @ (slope + slope.T) @ rows
    # The inverse Wishart law has m + 2 degrees of freedom and the scale floor I.
    eye = jnp.eye(m, dtype=rows.dtype)
    return (statistic + floor * eye) / (n + (0 if prior is None else 2 * m + 3))


def m_step(
    params: ParamsLinearAttentionSSM,
    score: Any,
    names: Sequence[str],
    emissions: Float[Array, "B T m"],
    inputs: Float[Array, "B T p"],
    noise_rank: int,
    prior: ShrinkagePrior | None,
) -> ParamsLinearAttentionSSM:
    """Maximise the expected complete-data log posterior over one block.

    Args:
        params: the constrained parameters that the expectations are taken at.
        score: the gradient of the log likelihood there.
        names: what to move, a part of one of the blocks.
        emissions: all sequences; NaN means missing.
        inputs: all inputs.
        noise_rank: the rank of Q_t.
        prior: the prior, or None to maximise the likelihood.

    Returns:
        The parameters with new values of `names`.
    """
    counts = count(emissions, noise_rank)
    m = emissions.shape[-1]
    initial, dynamics, readout = params.initial, params.dynamics, params.emissions
    if "initial.variances" in names:
        law = None if prior is None else prior.initial_variance
        n = m * counts.sequences
        statistic = _statistic(initial.variances, score.initial.variances, n)
        initial = initial._replace(variances=_scale(statistic, n, law))
    if "dynamics.process_noise" in names:
        law = None if prior is None else prior.process_noise
        q: Any = dynamics.process_noise
        # A scale for each column has its share of the rank.
        n = m * counts.steps * noise_rank / q.size
        statistic = _statistic(q, score.dynamics.process_noise, n)
        dynamics = dynamics._replace(process_noise=_scale(statistic, n, law))
    if "emissions.input_weights" in names or "emissions.bias" in names:
        weights: dict[str, Any] = _readout(params, score, names, emissions, inputs, prior)
        readout = readout._replace(**weights)
    if "emissions.row_cov" in names:
        readout = readout._replace(row_cov=_rows(params, score, counts, prior))
    if "emissions.noise" in names:
        n = counts.observed.sum()
        statistic = _statistic(readout.noise, score.emissions.noise, n)
        floor = 0.0 if prior is None else prior.noise_floor * prior.series_variance
        noise = (statistic + floor) / (n + (0 if prior is None else 5))
        readout = readout._replace(noise=noise)
    if "initial.mean" in names:
        rows = params.emissions.row_cov
        matrix = jnp.diag(rows) if rows.ndim == 1 else rows
        # The gradient in M_0 is Σ⁻¹ (E[S_0] − M_0) P_0⁻¹, summed over sequences.
        step = matrix @ score.initial.mean * params.initial.variances / counts.sequences
        initial = initial._replace(mean=initial.mean + step)
    return params._replace(initial=initial, dynamics=dynamics, emissions=readout)
