"""What the parts of a fitted model add to its predictions."""

import numpy as np
from jaxtyping import Float

from ssmlin.forecasting._fitting import FittedAttention
from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._laws import one_step
from ssmlin.forecasting._season import with_season
from ssmlin.forecasting._sequences import lacks_lags, with_lags
from ssmlin.models import LinearAttentionSSM, ParamsIntegratedRegression, ParamsRegression


def decompose(
    attention: FittedAttention, observed: Observed
) -> dict[str, Float[np.ndarray, "T m"]]:
    r"""The one-step predictions of a model as a sum of its parts.

    $$E[y_t \mid y_{1:t-1}] = \hat d_t + \hat D_t u_t + \hat S_t h_t$$

    with $\hat D_t$, $\hat d_t$ and $\hat S_t$ as known before the step. $\hat D_t u_t$ is the sum
    over the lags, the inputs of the user, and the harmonics of the season.

    Args:
        attention: the fitted model.
        observed: the standardised series without lags and harmonics, T steps of m columns.

    Returns:
        By name, the parts that the model has: "level" $\hat d_t$, "lags", "inputs", "season", and
        "memory" $\hat S_t h_t$; each (T, m), all together the predictive means.

    Raises:
        ValueError: a value is missing that is a lag of a later step; there the predictions are
            mixtures over draws of it.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.forecasting import FittedAttention, Observed, decompose
        >>> import ssmlin
        >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 1, 2, num_lags=1)
        >>> observed = Observed.of(np.ones((4, 1)))
        >>> parts = decompose(FittedAttention(model, model.initialize()[0]), observed)
        >>> list(parts)
        ['level', 'lags', 'memory']
    """
    model, params, seasonal = attention
    emissions, inputs = with_lags(model, with_season(observed, seasonal))
    if lacks_lags(model, inputs):
        raise ValueError("observed: expected lags that are known, got missing ones")
    posterior = one_step(model, params, emissions, inputs).posterior
    steps, num_lagged = len(emissions), model.num_lags * model.emission_dim
    num_given = num_lagged + observed.inputs.shape[1]
    assert posterior.filtered_means is not None
    states = np.asarray(posterior.filtered_means, np.float64)[:steps]
    before = np.concatenate([np.zeros_like(states[:1]), states[:-1]])
    weights, level = _coefficients(model, params.regression, before)
    parts = {} if level is None else {"level": level}
    if weights is not None:
        added = weights * inputs.astype(np.float64)[:, None, :]
        ends = {"lags": (0, num_lagged), "inputs": (num_lagged, num_given),
                "season": (num_given, inputs.shape[1])}  # fmt: skip
        parts |= {
            name: added[..., start:end].sum(axis=-1)
            for name, (start, end) in ends.items()
            if end > start
        }
    means = np.asarray(posterior.emission_means, np.float64)[:steps]
    return parts | {"memory": means - sum(parts.values(), np.zeros_like(means))}


def _coefficients(
    model: LinearAttentionSSM, params: object, before: Float[np.ndarray, "T m e"]
) -> tuple[Float[np.ndarray, "T m p"] | None, Float[np.ndarray, "T m"] | None]:
    """D and d at every step, given the means of the states before it."""
    steps, m, _ = before.shape
    if isinstance(params, ParamsIntegratedRegression):
        basis = np.asarray(params.basis, np.float64)
        found = before[..., -len(basis) :] @ basis  # they change by noise alone
        weights = found[..., : model.input_dim] if model.regression.weights else None
        return weights, found[..., -1] if model.regression.bias else None
    if isinstance(params, ParamsRegression):
        wide, bias = (None if x is None else np.asarray(x, np.float64) for x in params)
        return (
            None if wide is None else np.broadcast_to(wide, (steps, *wide.shape)),
            None if bias is None else np.broadcast_to(bias, (steps, m)),
        )
    return None, None
