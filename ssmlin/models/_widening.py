"""A model with further inputs that are always zero: the same law, in a shape that others share.

What the further inputs multiply is zero and has no gradient, so that a fit goes the same way: all
parameters start where their prior is highest, and stay there. Only its loss is higher, by the prior
density of what was added.
"""

from math import exp
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ssmlin._typing import AnyArray
from ssmlin.models._coefficients import ParamsIntegratedRegression
from ssmlin.models._features import ParamsProjection
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._parts import settled
from ssmlin.models._process_noise import DiagonalNoise
from ssmlin.models._regression import ParamsRegression

if TYPE_CHECKING:
    from ssmlin.models._linear_attention_ssm import LinearAttentionSSM


class Widened(NamedTuple):
    """A model of more inputs, and what goes with it.

    Attributes:
        model: the model, which makes no lags by itself.
        params: its parameters.
        inputs: its inputs.
    """

    model: "LinearAttentionSSM"
    params: ParamsLinearAttentionSSM
    inputs: Float[AnyArray, "... q"]


def widened(
    model: "LinearAttentionSSM",
    params: ParamsLinearAttentionSSM,
    inputs: Float[AnyArray, "... p"],
    input_dim: int,
) -> Widened:
    """The same model of inputs of which the last ones are zero, and with no lags among them.

    A model without inputs has no parameters for any, and stays as it is.

    Args:
        model: the model; where its keys are the inputs there are further keys, too.
        params: its parameters; may have leading axes.
        inputs: its inputs.
        input_dim: how many inputs there are then.

    Raises:
        ValueError: fewer inputs than the model has, or a process noise with a scale for each key.
    """
    more = input_dim - model.input_dim
    if more < 0:
        raise ValueError(f"input_dim: expected at least {model.input_dim}, got {input_dim}")
    if model.input_dim == 0:
        return Widened(model, params, inputs)
    more_keys = 0 if model.mechanism.writes_values else more
    if more_keys and isinstance(model.process_noise, DiagonalNoise):
        raise ValueError(
            f"process_noise: expected one scale for all keys, got {model.process_noise!r}"
        )
    settings = model.settings | {
        "input_dim": input_dim, "key_dim": model.key_dim + more_keys, "num_lags": 0,
    }  # fmt: skip
    wide = type(model)(**settings)
    initial, tokens, regression = params.initial, params.tokens, params.regression
    median, spread = settled(model.parts.initial.variance)
    initial = initial._replace(
        mean=_padded(initial.mean, more_keys),
        variances=_padded(initial.variances, more_keys, value=median * exp(-(spread**2))),
    )

    def projection(x: ParamsProjection, more_rows: int = 0) -> ParamsProjection:
        return ParamsProjection(_padded(x.weights, more_rows, more), _padded(x.bias, more_rows))

    gates = {
        name: projection(x) if isinstance(x, ParamsProjection)
        else x if x.weights is None
        else x._replace(weights=_padded(x.weights, more))
        for name, x in tokens.gates.items()
    }  # fmt: skip
    tokens = tokens._replace(
        keys=projection(tokens.keys, more_keys),
        queries=None if tokens.queries is None else projection(tokens.queries),
        values=None if tokens.values is None else projection(tokens.values),
        gates=gates,
    )
    if isinstance(regression, ParamsRegression) and regression.weights is not None:
        regression = regression._replace(weights=_padded(regression.weights, more))
    elif isinstance(regression, ParamsIntegratedRegression) and model.regression.weights:
        # The regressor of one is the last.
        before = regression.basis[..., : model.input_dim]
        last = regression.basis[..., model.input_dim :]
        basis = np.concatenate([_padded(before, more), last], axis=-1)
        regression = regression._replace(basis=_padded(basis, more, 0))
    params = params._replace(initial=initial, tokens=tokens, regression=regression)
    return Widened(wide, params, _padded(inputs, more))


def narrowed(
    params: ParamsLinearAttentionSSM, like: ParamsLinearAttentionSSM
) -> ParamsLinearAttentionSSM:
    """The parameters of the model that was widened, of those of the wide one.

    Args:
        params: of the wide model.
        like: parameters of the model, of one start, whose shapes and whose basis are taken.
    """
    cut: ParamsLinearAttentionSSM = jax.device_put(
        jax.tree.map(lambda x, y: np.asarray(x)[tuple(slice(n) for n in np.shape(y))], params, like)
    )
    if isinstance(like.regression, ParamsIntegratedRegression):
        regression = like.regression
        assert isinstance(cut.regression, ParamsIntegratedRegression)
        cut = cut._replace(regression=cut.regression._replace(basis=regression.basis))
    return cut


def _padded(x: Any, *more: int, value: float = 0.0) -> Any:
    """More entries at the ends of the last axes, in NumPy, where nothing is compiled."""
    if not any(more):
        return x
    widths = [(0, 0)] * (np.ndim(x) - len(more)) + [(0, n) for n in more]
    return np.pad(np.asarray(x), widths, constant_values=value)
