"""Linear attention models as forecasters, fitted by the recommended recipe."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import trainable_flags
from jaxtyping import Array, Float

from ssmlin.forecasting.interface import Ahead, Fitted, Observed
from ssmlin.forecasting.predictive import Predictive
from ssmlin.forecasting.regression import last_values
from ssmlin.inference import integrate_row_cov
from ssmlin.learning import sample_posterior
from ssmlin.mechanisms import Mechanism, get_mechanism
from ssmlin.models import IntegratedRowCov, LinearAttentionSSM, ParamsLinearAttentionSSM, StateLaw
from ssmlin.models.coefficients import GAIN
from ssmlin.models.forecast import draw_states, simulate
from ssmlin.models.missing_lags import (
    ParticlePosterior,
    Particles,
    has_missing_lags,
    run_particles,
)

#: Draws of missing lags: at most and at least so many, and at most so many numbers in all.
_PARTICLES, _MIN_PARTICLES, _NUMBERS = 1000, 200, 2**24
#: Laws in a mixture over draws.
_COMPONENTS = 50


class FittedAttention(NamedTuple):
    """What a report may show of a fitted linear attention.

    Attributes:
        model: the model.
        params: its fitted parameters.
        seasonal: the period of the harmonics among its inputs, or None.
    """

    model: LinearAttentionSSM
    params: ParamsLinearAttentionSSM
    seasonal: int | None = None


def with_lags(model: LinearAttentionSSM, observed: Observed) -> tuple[Array, Array]:
    """Emissions and inputs of a series; its first steps serve as lags only.

    Where rows share a covariance, a step that is partly missing is left out, unless what is missing
    is drawn since later steps have it as a lag.
    """
    emissions = jnp.asarray(observed.values, jnp.float32)
    exogenous = jnp.asarray(observed.inputs, jnp.float32) if observed.inputs.shape[1] else None
    inputs = model.compute_inputs(emissions, exogenous=exogenous)
    if model.row_cov.structure == "full" and not lacks_lags(model, inputs):
        emissions = jnp.where(jnp.isnan(emissions).any(axis=1, keepdims=True), jnp.nan, emissions)
    return emissions.at[: model.num_lags].set(jnp.nan), inputs


def lacks_lags(model: LinearAttentionSSM, inputs: Float[Array, "... p"]) -> bool:
    """Whether lags among the inputs are missing."""
    return bool(has_missing_lags(inputs, model.num_lags * model.emission_dim).any())


#: Discounts of Σ to choose among.
DISCOUNTS = (1.0, 0.98, 0.95, 0.92, 0.88, 0.84, 0.8)


def recommended_settings(
    mechanism: str | Mechanism,
    *,
    num_targets: int,
    num_inputs: int,
    num_lags: int,
    partly_missing: bool,
    key_dim: int | None = None,
) -> dict[str, Any]:
    """The recommended model, as arguments of :class:`ssmlin.LinearAttentionSSM`.

    Σ is integrated out, and so are the weights of the inputs, beside the memory of a mechanism that
    writes values. Whether data are held in memory or streamed makes no difference.

    Args:
        mechanism: a name in ``ssmlin.MECHANISMS``.
        num_targets: m.
        num_inputs: inputs besides the lags.
        num_lags: how many lagged values are inputs.
        partly_missing: whether some of the targets, but not all, are missing at some step.
        key_dim: d; default the inputs and an intercept, as `bayesian_memory` wants it.

    Returns:
        The settings.

    Example:
        >>> from ssmlin.forecasting.linear_attention import recommended_settings
        >>> settings = recommended_settings("mamba2", num_targets=2, num_inputs=1, num_lags=3,
        ...     partly_missing=True)
        >>> settings["input_dim"], settings["row_cov"], settings["regression"]
        (7, 'diagonal', 'integrated')
    """
    width = num_lags * num_targets + num_inputs
    # Steps of which parts are missing want a diagonal Σ, whose rows would be Student-t apart.
    joint = num_targets == 1 or not partly_missing
    return {
        "mechanism": mechanism,
        "emission_dim": num_targets,
        "input_dim": width,
        "key_dim": width + 1 if key_dim is None else key_dim,
        "num_lags": num_lags,
        "row_cov": IntegratedRowCov("full" if num_targets > 1 else "diagonal")
        if joint
        else "diagonal",
        # Where keys are the inputs the state already holds coefficients of them.
        "regression": "integrated" if get_mechanism(mechanism).writes_values else "learned",
    }


def fit_attention(
    train: Observed | Sequence[Observed],
    seed: int,
    *,
    mechanism: str | Mechanism,
    num_lags: int,
    key_dim: int | None = None,
    num_epochs: int = 500,
    discounts: Sequence[float] = DISCOUNTS,
    checkpoint_dir: Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Fitted:
    """Fit a linear attention on lagged values and inputs.

    The model is that of :func:`recommended_settings`. Σ is first taken as constant; then the
    discount that gives the training part the highest likelihood is chosen and, if it gains more
    than two nats, the model fitted again with it.

    Args:
        train: the standardised training series, or several, with the same columns, that share
            their parameters; they may differ in length.
        seed: for the start.
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        num_lags: how many lagged values are inputs.
        key_dim: d; default the inputs and an intercept, as `bayesian_memory` wants it.
        num_epochs: at most so many epochs.
        discounts: of Σ, to choose among.
        checkpoint_dir: a directory to keep the states of the fits in, see ``model.fit``.
        progress: show a progress bar.
        **options: of :class:`ssmlin.LinearAttentionSSM`.

    Returns:
        The fitted forecaster.
    """
    several = [train] if isinstance(train, Observed) else list(train)
    m = several[0].values.shape[1]
    missing = np.concatenate([np.isnan(one.values) for one in several])
    partly = (missing.any(axis=1) & ~missing.all(axis=1)).any()
    recommended = recommended_settings(
        mechanism, num_targets=m, num_inputs=several[0].inputs.shape[1], num_lags=num_lags,
        partly_missing=bool(partly), key_dim=key_dim,
    )  # fmt: skip
    settings = recommended | options
    model = LinearAttentionSSM(**settings)
    data, key = padded(model, several), jax.random.key(seed)

    def fit(name: str) -> Any:
        folder = None if checkpoint_dir is None else checkpoint_dir / name
        return model.fit(
            *data, key, num_epochs=num_epochs, checkpoint_dir=folder, progress=progress
        )

    params, history = fit("constant")
    if isinstance(model.row_cov, IntegratedRowCov):
        known, copies = data, 1
        if lacks_lags(model, data[1]):
            copies = 4
            drawn = model.impute(key, params, *data, copies)
            known = (
                drawn[0].reshape(-1, *data[0].shape[1:]),
                drawn[1].reshape(-1, *data[1].shape[1:]),
            )
        sequences = ([window] for window in zip(*known, strict=True))
        discount = best_discount(model, params, sequences, discounts, 1 / copies)
        if discount < 1:
            row_cov = replace(model.row_cov, discount=discount)
            model = LinearAttentionSSM(**settings | {"row_cov": row_cov})
            params, history = fit("changing")

    def predict(observed: Observed) -> Predictive:
        return predictive(model, params, observed)

    def sample_paths(observed: Observed, ahead: Ahead) -> np.ndarray:
        return _paths(model, params, observed, ahead)

    props = model.param_props

    def log_evidence() -> float:
        if lacks_lags(model, data[1]):
            return float("nan")  # the likelihood is known by draws alone
        return laplace_evidence(model, params, props, *data, key)

    sizes = [int(np.size(x)) for x in jax.tree.leaves(params)]
    flags: list[Any] = trainable_flags(props)
    count = sum(size for size, free in zip(sizes, flags, strict=True) if free)
    # Scores are per value; log densities are per step of m values.
    validation = -float(history.scores[history.best_epoch]) * m
    details = FittedAttention(model, params)
    return Fitted(predict, count, sample_paths, validation, details, log_evidence)


def sample_over_gaps(
    key: Array,
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    props: ParamsLinearAttentionSSM,
    emissions: Float[Array, "... T m"],
    inputs: Float[Array, "... T p"],
    *,
    num_chains: int = 4,
    checkpoint_dir: Path | None = None,
    **options: Any,
) -> Any:
    """Draw parameters; where lags are missing each chain has completed data of its own.

    That is multiple imputation: what is missing is drawn given `params`, and the chains together
    say what is known of the parameters, so they differ by more than chance.

    Args:
        key: a PRNG key.
        model: the model.
        params: its fitted parameters.
        props: their properties.
        emissions: one sequence or a batch; NaN means missing.
        inputs: likewise; lags may be missing.
        num_chains: the number of chains.
        checkpoint_dir: see :func:`ssmlin.sample_posterior`, as for all further arguments.
        **options: of :func:`ssmlin.sample_posterior`.

    Returns:
        An ArviZ DataTree.
    """
    data, has_gaps = [(emissions, inputs)], lacks_lags(model, inputs)
    if has_gaps:
        draw_key, key = jax.random.split(key)
        data = list(
            zip(*model.impute(draw_key, params, emissions, inputs, num_chains), strict=True)
        )
    trees, messages = [], {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        for number, each in enumerate(data):
            folder = checkpoint_dir
            if checkpoint_dir is not None and has_gaps:
                folder = checkpoint_dir / f"chain-{number}"
            tree = sample_posterior(
                jax.random.fold_in(key, number) if has_gaps else key, model, params, props, *each,
                num_chains=1 if has_gaps else num_chains, checkpoint_dir=folder, **options,
            )  # fmt: skip
            trees.append(tree)
    for warning in caught:
        messages[str(warning.message)] = warning.category
    for message, category in messages.items():
        warnings.warn(message, category, stacklevel=2)
    if not has_gaps:
        return trees[0]
    import xarray

    def together(*several: Any) -> Any:
        if "chain" not in several[0].dims:
            return several[0]
        numbered = [one.assign_coords(chain=[i]) for i, one in enumerate(several)]
        return xarray.concat(numbered, dim="chain", data_vars="minimal")

    tree = xarray.map_over_datasets(together, *trees)
    # What was drawn was not observed.
    observed = tree["observed_data"]["emissions"]
    known = xarray.DataArray(np.asarray(~jnp.isnan(emissions)), dims=observed.dims)
    tree["observed_data"]["emissions"] = observed.where(known)
    terms = tree["log_likelihood"]["emissions"]
    tree["log_likelihood"]["emissions"] = terms.where(known.any(str(known.dims[-1])), 0.0)
    return tree


def laplace_evidence(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    props: ParamsLinearAttentionSSM,
    emissions: Float[Array, "B T m"],
    inputs: Float[Array, "B T p"],
    key: Array,
) -> float:
    """Laplace's approximation of log p(emissions), the trainable parameters integrated out.

    NaN where no mode is found from `params` on: one where the curvature is positive and a Newton
    step would gain less than 0.05, which single precision allows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the draws, which are not used
        draws = sample_posterior(
            key, model, params, props, emissions, inputs, algorithm="laplace", num_chains=1,
            num_samples=50, trajectories=False, progress=False,
        )  # fmt: skip
    found = draws.posterior.attrs
    slope, curvature = found["gradient_norm"], found["smallest_curvature"]
    is_mode = curvature > 0 and slope**2 / (2 * curvature) < 0.05
    return float(found["log_evidence"]) if is_mode else float("nan")


def padded(model: LinearAttentionSSM, several: list[Observed]) -> tuple[Array, Array]:
    """A batch of series; missing emissions and inputs of zero fill up the short ones."""
    length = max(len(one.values) for one in several)
    emissions, inputs = [], []
    for one in several:
        y, u = with_lags(model, one)
        rest = ((0, length - len(y)), (0, 0))
        emissions.append(jnp.pad(y, rest, constant_values=jnp.nan))
        inputs.append(jnp.pad(u, rest))
    return jnp.stack(emissions), jnp.stack(inputs)


@partial(jax.jit, static_argnums=0)
def _predictions(
    model: Any,
    params: ParamsLinearAttentionSSM,
    emissions: Array,
    inputs: Array,
    law: StateLaw | None = None,
) -> Any:
    """What the filter says of every emission given those before it, and the last state."""
    return model.filter(params, emissions, inputs, store="last", missing=_missing(model), law=law)


def _missing(model: LinearAttentionSSM) -> Any:
    """What to do about partly missing emissions, which a trace does not see."""
    return model.given_missing().missing


def best_discount(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    sequences: Iterable[Iterable[tuple[Any, Any]]],
    discounts: Sequence[float] = DISCOUNTS,
    weight: float = 1.0,
) -> float:
    """The discount of Σ with the highest likelihood; the filter's means do not depend on it.

    Memory grows with a window only, since all that goes from one to the next is the law of the
    state and, for every discount, that of Σ.

    Args:
        model: a model with Σ integrated out.
        params: its parameters.
        sequences: of each its consecutive windows of emissions (W, m) and inputs (W, p).
        discounts: to choose among.
        weight: what each sequence counts, less than one for each of several draws of the same.

    Returns:
        The largest, unless another gains more than two nats on it, about what chance gains once in
        twenty times.
    """
    totals = dict.fromkeys(discounts, 0.0)
    for windows in sequences:
        law = model.initial_law(params)
        row_covs = dict.fromkeys(discounts, law.row_cov)
        for emissions, inputs in windows:
            posterior = _predictions(model, params, emissions, inputs, law)
            law = law._replace(
                mean=posterior.filtered_means[0], cov=posterior.filtered_covariances[0]
            )
            for discount in discounts:
                prior: Any = row_covs[discount]
                found = integrate_row_cov(posterior, emissions, prior, discount=discount)
                row_covs[discount] = found.row_cov
                totals[discount] += weight * float(found.marginal_loglik)
    best, constant = max(totals, key=totals.__getitem__), max(discounts)
    return best if totals[best] > totals[constant] + GAIN else constant


def predictive(
    model: LinearAttentionSSM, params: ParamsLinearAttentionSSM, observed: Observed
) -> Predictive:
    """The laws of all steps, each given those before it.

    Where lags are missing these are mixtures over draws of them.
    """
    emissions, inputs = with_lags(model, observed)
    if lacks_lags(model, inputs):
        size = emissions.shape[0] * emissions.shape[1] ** 2
        count = max(_MIN_PARTICLES, min(_PARTICLES, _NUMBERS // size))
        return _mixture(model.particle_filter(params, emissions, inputs, num_particles=count))
    posterior = _predictions(model, params, emissions, inputs)
    means = np.asarray(posterior.emission_means, np.float64)
    scales = np.asarray(posterior.emission_scales, np.float64)
    scales = np.expand_dims(scales, (1, 2) if scales.ndim == 1 else 1)
    if not model.row_cov.is_integrated:
        return Predictive.gaussian(means, scales * np.asarray(posterior.row_cov, np.float64))
    integrated = model.row_cov_posterior(params, posterior, emissions, store="all")
    laws: Any = integrated.predictive_row_cov
    df = np.asarray(laws.student_df, np.float64).reshape(-1)
    rows = np.asarray(laws.scale, np.float64).reshape(len(means), *means.shape[1:] * 2)
    law = Predictive.gaussian(means, scales * rows / df[:, None, None])
    return law._replace(df=df[:, None])


def _mixture(posterior: ParticlePosterior) -> Predictive:
    """The laws of all steps; draws of similar means are put together, so that there are few."""
    log_weights, means, scales = (
        np.asarray(x, np.float64)
        for x in (posterior.log_weights, posterior.emission_means, posterior.emission_scales)
    )
    df: Any = posterior.student_df
    df = None if df is None else np.asarray(df, np.float64).reshape(len(means))
    weights = np.exp(log_weights)
    spread = np.maximum(means.std(axis=1, keepdims=True), 1e-12)
    order = np.argsort((means / spread).sum(axis=2), axis=1, kind="stable")
    weights = np.take_along_axis(weights, order, axis=1)
    means = np.take_along_axis(means, order[..., None], axis=1)
    scales = np.take_along_axis(scales, order[..., None, None], axis=1)
    # Groups of equal weight, in the order of the means.
    middle = np.cumsum(weights, axis=1) - 0.5 * weights
    group = np.minimum((middle * _COMPONENTS).astype(int), _COMPONENTS - 1)
    # A scale matrix is this share of a covariance.
    share = np.ones(len(means)) if df is None else np.maximum(df - 2, 0.0) / df
    found = []
    for number in range(_COMPONENTS):
        w = np.where(group == number, weights, 0.0)
        total = w.sum(axis=1, keepdims=True)
        w = np.where(total > 0, w / np.where(total > 0, total, 1.0), 1 / w.shape[1])
        mean = np.einsum("tn,tnm->tm", w, means)
        apart = means - mean[:, None]
        between = np.einsum("tn,tni,tnj->tij", w, apart, apart)
        scale = np.einsum("tn,tnij->tij", w, scales) + share[:, None, None] * between
        found.append((total[:, 0], mean, scale))
    parts = [np.stack(x, axis=1) for x in zip(*found, strict=True)]
    parts[0] /= parts[0].sum(axis=1, keepdims=True)
    law = Predictive(*parts)
    return law if df is None else law._replace(df=np.repeat(df[:, None], _COMPONENTS, axis=1))


def _paths(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    observed: Observed,
    ahead: Ahead,
) -> np.ndarray:
    """Paths from the filtered states, emissions fed back as lags."""
    y, u = with_lags(model, observed)
    n, m = ahead.num_samples, model.emission_dim
    start_key, key = jax.random.split(jax.random.key(ahead.seed))
    if lacks_lags(model, u):
        starts = _drawn_starts(model, params, y, u, ahead, start_key)
    else:
        posterior: Any = model.filter(params, y, u, missing=_missing(model))
        last = jnp.asarray(ahead.origins - 1)
        if model.row_cov.is_integrated:
            integrated = model.row_cov_posterior(params, posterior, y, store="all")
            laws: Any = jax.tree.map(lambda x: x[ahead.origins], integrated.predictive_row_cov)
            rows = jnp.moveaxis(laws.sample(start_key, (n,)), 0, 1).reshape(len(last), n, m, m)
        else:
            rows = jnp.broadcast_to(posterior.row_cov, (len(last), n, m, m))
        lags = jnp.asarray(last_values(observed.values, ahead, model.num_lags), y.dtype)
        starts = (
            posterior.filtered_means[last], posterior.filtered_covariances[last], rows, lags
        )  # fmt: skip
    future = jnp.asarray(ahead.future(observed.inputs), y.dtype)

    @jax.jit
    @jax.vmap
    def paths(
        key: Array, mean: Array, cov: Array, rows: Array, lags: Array, future: Array
    ) -> Array:
        start_key, path_key = jax.random.split(key)
        start = draw_states(start_key, mean, cov, rows, n)
        lags = jnp.broadcast_to(lags, (n, *lags.shape[-2:]))
        return simulate(model, params, path_key, start, rows, lags, future)[1]

    keys = jax.random.split(key, len(ahead.origins))
    return np.asarray(paths(keys, *starts, future), np.float64)


def _drawn_starts(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"],
    ahead: Ahead,
    key: Array,
) -> tuple[Array, Array, Array, Array]:
    """Where paths start if lags are missing: each has a mean, a covariance, a Σ and lags."""
    count = len(ahead.origins)
    places = np.full(len(emissions), count)
    places[ahead.origins - 1] = np.arange(count)
    filter_key, draw_key = jax.random.split(key)
    posterior = run_particles(
        model, params, filter_key, emissions, inputs, max(_MIN_PARTICLES, ahead.num_samples),
        places=jnp.asarray(places), num_kept=count,
    )  # fmt: skip

    def draw(key: Array, particles: Particles) -> tuple[Array, Array, Array, Array]:
        index_key, row_key = jax.random.split(key)
        return model.draw_laws(index_key, row_key, particles, params, ahead.num_samples)

    assert posterior.kept is not None
    return jax.vmap(draw)(jax.random.split(draw_key, count), posterior.kept)
