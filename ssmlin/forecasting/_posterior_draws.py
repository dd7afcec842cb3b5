"""Draws of parameters from their posterior, where lags may be missing."""

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin._optional import require
from ssmlin._typing import AnyArray
from ssmlin.forecasting._forecaster import Forecaster
from ssmlin.forecasting._sequences import lacks_lags, padded, with_lags
from ssmlin.forecasting._state import ForecasterState
from ssmlin.learning import Algorithm, sample_posterior
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM

if TYPE_CHECKING:
    import xarray


def sample_over_gaps(
    key: Array,
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    props: ParamsLinearAttentionSSM,
    emissions: Float[AnyArray, "... T m"],
    inputs: Float[AnyArray, "... T p"],
    *,
    algorithm: Algorithm = "nuts",
    variables: Sequence[str] | None = None,
    num_chains: int = 4,
    num_warmup: int = 500,
    num_samples: int = 500,
    time: Collection[object] | None = None,
    checkpoint_dir: Path | None = None,
    progress: bool = True,
) -> "xarray.DataTree":
    """Draw parameters; where lags are missing each chain has completed data of its own.

    This is multiple imputation: what is missing is drawn given `params`. The chains together say
    what is known of the parameters, so they differ by more than chance.

    Args:
        key: a PRNG key.
        model: the model.
        params: its fitted parameters.
        props: their properties.
        emissions: one sequence or a batch; NaN means missing.
        inputs: likewise; lags may be missing.
        algorithm: as in :func:`ssmlin.sample_posterior`, like all further arguments.
        variables: the parameters to draw.
        num_chains: the number of chains.
        num_warmup: steps of adaptation.
        num_samples: draws of each chain.
        time: labels of the steps.
        checkpoint_dir: a folder to keep the state in.
        progress: show a progress bar.

    Returns:
        An ArviZ DataTree.
    """
    data, has_gaps = [(emissions, inputs)], lacks_lags(model, inputs)
    if has_gaps:
        draw_key, key = jax.random.split(key)
        drawn = model.impute(draw_key, params, emissions, inputs, num_chains)
        data = list(zip(*drawn, strict=True))
    trees = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        for number, (y, u) in enumerate(data):
            folder = checkpoint_dir
            if checkpoint_dir is not None and has_gaps:
                folder = checkpoint_dir / f"chain-{number}"
            tree = sample_posterior(
                jax.random.fold_in(key, number) if has_gaps else key, model, params, props, y, u,
                algorithm=algorithm, variables=variables, num_warmup=num_warmup,
                num_samples=num_samples, time=time, progress=progress,
                num_chains=1 if has_gaps else num_chains, checkpoint_dir=folder,
            )  # fmt: skip
            trees.append(tree)
    # Each warning once, although every chain may have given it.
    for message, category in {str(one.message): one.category for one in caught}.items():
        warnings.warn(message, category, stacklevel=2)
    return _joined(trees, emissions) if has_gaps else trees[0]


def _joined(
    trees: Sequence["xarray.DataTree"], emissions: Float[AnyArray, "... T m"]
) -> "xarray.DataTree":
    """The chains of several data sets as one tree, without what was drawn of the emissions."""
    require("xarray")
    import xarray

    def together(*several: xarray.Dataset) -> xarray.Dataset:
        if "chain" not in several[0].dims:
            return several[0]
        numbered = [one.assign_coords(chain=[i]) for i, one in enumerate(several)]
        return xarray.concat(numbered, dim="chain", data_vars="minimal")

    tree: xarray.DataTree = xarray.map_over_datasets(together, *trees)
    observed = tree["observed_data"]["emissions"]
    known = xarray.DataArray(np.asarray(~jnp.isnan(emissions)), dims=observed.dims)
    tree["observed_data"]["emissions"] = observed.where(known)
    terms = tree["log_likelihood"]["emissions"]
    tree["log_likelihood"]["emissions"] = terms.where(known.any(str(known.dims[-1])), 0.0)
    return tree


def draw_parameters(
    forecaster: Forecaster,
    variables: Sequence[str] = (),
    *,
    algorithm: Algorithm = "nuts",
    num_chains: int = 4,
    num_warmup: int = 500,
    num_samples: int = 500,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    progress: bool = False,
) -> "xarray.DataTree":
    """Draw parameters of a forecaster's model given its history.

    Args:
        forecaster: one that is fitted, with one model.
        variables: the parameters to draw; default the gates, or the process noise without gates.
        algorithm: as in :func:`ssmlin.sample_posterior`.
        num_chains: the number of chains.
        num_warmup: steps of adaptation.
        num_samples: draws of each chain.
        seed: of the draws.
        checkpoint_dir: a folder to keep the state in.
        progress: show a progress bar.

    Returns:
        An ArviZ DataTree. The draws of one series have its times.

    Raises:
        ValueError: several models, or no history.
    """
    state = forecaster.state_
    if not isinstance(state, ForecasterState):
        raise ValueError(
            "forecaster: expected one fitted with shared or separate pooling, got "
            f"{'a hierarchical one' if state else 'none that is fitted'}"
        )
    model, params = state.only_fit.model, state.only_fit.params
    gates = [name for name, gate in model.mechanism.gates.items()
             if gate.kind != "key" and gate.trainable]  # fmt: skip
    observed = list(state.observed().values())
    time: list[object] | None = None
    if len(observed) == 1:
        data = with_lags(model, observed[0])
        time = list(next(iter(state.panel.values())).times)
    else:
        data = padded(model, observed)
    return sample_over_gaps(
        jax.random.key(seed), model, params, model.param_props, *data,
        variables=tuple(variables) or gates or ["process_noise"], algorithm=algorithm,
        num_chains=num_chains, num_warmup=num_warmup, num_samples=num_samples, time=time,
        checkpoint_dir=checkpoint_dir, progress=progress,
    )  # fmt: skip
