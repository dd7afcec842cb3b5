"""Simulating a model forward, and what `forecast` returns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin._display import one_line, small_table
from ssmlin._typing import AnyArray
from ssmlin.inference import symmetric_root
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.models._forecast_tables import forecast_dataset, forecast_frame, index_after
from ssmlin.models._parameters import ParamsLinearAttentionSSM

if TYPE_CHECKING:
    import pandas
    import xarray


class Forecast(NamedTuple):
    """Predictive distribution of the next emissions.

    Attributes:
        means: (horizon, m).
        covariances: covariance of each emission, (horizon, m, m).
        levels: the probabilities of the central intervals, (num_levels,).
        lower: lower ends, (num_levels, horizon, m).
        upper: upper ends, (num_levels, horizon, m).
        samples: sampled paths, (num_samples, horizon, m), or None.

    Examples:
        >>> import jax.numpy as jnp, pandas as pd
        >>> from ssmlin import Forecast
        >>> ends = jnp.array([[[8.0], [7.0]]])
        >>> found = Forecast(ends[0] + 2, jnp.ones((2, 1, 1)), jnp.array([0.95]), ends, ends + 4)
        >>> months = pd.period_range("2024-01", "2024-05", freq="M")
        >>> found.to_frame(after=months)
                 mean  lo-95  hi-95
        2024-06  10.0    8.0   12.0
        2024-07   9.0    7.0   11.0
    """

    means: Float[Array, "horizon m"]
    covariances: Float[Array, "horizon m m"]
    levels: Float[Array, " num_levels"]
    lower: Float[Array, "num_levels horizon m"]
    upper: Float[Array, "num_levels horizon m"]
    samples: Float[Array, "num_samples horizon m"] | None = None

    def __repr__(self) -> str:
        return one_line(self, self._asdict())

    def _repr_html_(self) -> str:
        return small_table(type(self).__name__, self._asdict())

    def to_frame(
        self, after: "pandas.Index | None" = None, columns: Sequence[str] | None = None
    ) -> "pandas.DataFrame":
        """The means and the intervals as a frame, a row for each step.

        Args:
            after: the index of the data; the frame's index goes on from it. None numbers the steps.
            columns: names of the m columns; default y, or y1, y2, ...

        Returns:
            The columns `mean`, `lo-95`, ..., `hi-95`; below the name of each column if there are
            several.

        Raises:
            ValueError: another number of names, or an index that is not regular.
        """
        return forecast_frame(**self._parts(after, columns))

    def to_xarray(
        self, after: "pandas.Index | None" = None, columns: Sequence[str] | None = None
    ) -> "xarray.Dataset":
        """The forecast as a dataset: `mean`, `covariance`, `lower`, `upper` and `paths`.

        Args:
            after: as in :meth:`to_frame`.
            columns: likewise.

        Returns:
            A dataset with the dimensions `time`, `column`, `level` (percentages) and, of paths,
            `sample`; of covariances `other_column`, too.

        Raises:
            ValueError: as there.
        """
        found = forecast_dataset(**self._parts(after, columns), paths=self.samples)
        dims = ("time", "column", "other_column")
        return found.assign(covariance=(dims, np.asarray(self.covariances))).assign_coords(
            other_column=found["column"].values
        )

    def _parts(self, after: "pandas.Index | None", columns: Sequence[str] | None) -> dict[str, Any]:
        """The arguments of `forecast_frame`."""
        horizon, m = self.means.shape
        if columns is None:
            columns = ["y"] if m == 1 else [f"y{i + 1}" for i in range(m)]
        if len(columns) != m:
            raise ValueError(f"columns: expected {m} names, got {len(columns)}")
        percentages = [round(100 * float(level), 4) for level in self.levels]
        return {
            "index": index_after(after, horizon), "columns": columns, "means": self.means,
            "levels": percentages, "lower": self.lower, "upper": self.upper,
        }  # fmt: skip


def exact_forecast(
    means: Float[Array, "horizon m"],
    covariances: Float[Array, "horizon m m"],
    levels: Float[Array, " num_levels"],
    samples: Float[Array, "num_samples horizon m"] | None,
    student_df: Float[Array, "..."] | None = None,
) -> Forecast:
    """Intervals of a Gaussian or, given degrees of freedom above 2, Student-t predictive law.

    The degrees of freedom are the same for all emissions, or (m,).
    """
    deviations = jnp.sqrt(jnp.diagonal(covariances, axis1=-2, axis2=-1))
    upper = (0.5 + 0.5 * levels)[:, None, None]
    if student_df is None:
        width = tfd.Normal(0.0, 1.0).quantile(upper)
    else:
        standard = tfd.StudentT(student_df, jnp.zeros_like(student_df), 1.0)
        width = jnp.sqrt((student_df - 2) / student_df) * standard.quantile(upper)
    width = width * deviations
    return Forecast(means, covariances, levels, means - width, means + width, samples)


def sampled_forecast(
    samples: Float[Array, "num_samples horizon m"], levels: Float[Array, " num_levels"]
) -> Forecast:
    """Moments and intervals of sampled paths."""
    means = samples.mean(axis=0)
    centred = samples - means
    covariances = jnp.einsum("nhi,nhj->hij", centred, centred) / max(len(samples) - 1, 1)
    lower = jnp.quantile(samples, 0.5 - 0.5 * levels, axis=0)
    upper = jnp.quantile(samples, 0.5 + 0.5 * levels, axis=0)
    return Forecast(means, covariances, levels, lower, upper, samples)


@runtime_checkable
class LocalModel(Protocol):
    """What `simulate` needs of a model: its operators as a function of the inputs."""

    def to_lgssm(
        self, params: ParamsLinearAttentionSSM, inputs: Float[Array, "n p"]
    ) -> MatrixLGSSM:
        """The operators that go with each row of inputs."""


def draw_states(
    key: Array,
    mean: Float[Array, "*means m d"],
    cov: Float[Array, "d d"] | Float[Array, "m d d"] | Float[Array, "n 1 d d"],
    row_cov: Float[Array, "*row_covs m m"],
    num_samples: int,
) -> Float[Array, "n m d"]:
    """Draw states of MN(mean, Σ, cov), or with a covariance for each row where Σ is diagonal.

    The mean, the covariance and Σ are the same for all states, or there is one for each.
    """
    normal = jax.random.normal(key, (num_samples, *mean.shape[-2:]), mean.dtype)
    return mix_states(normal, mean, cov, row_cov)


def mix_states(
    normal: Float[Array, "n m d"],
    mean: Float[AnyArray, "*means m d"],
    cov: Float[AnyArray, "d d"] | Float[AnyArray, "m d d"] | Float[AnyArray, "n 1 d d"],
    row_cov: Float[AnyArray, "*row_covs m m"],
) -> Float[Array, "n m d"]:
    """States as `draw_states` draws them, from standard normal numbers."""
    mixed = symmetric_root(jnp.asarray(row_cov)) @ normal
    return jnp.asarray(mean) + jnp.einsum(
        "...de,...e->...d", symmetric_root(jnp.asarray(cov)), mixed
    )


def simulate(
    model: LocalModel,
    params: ParamsLinearAttentionSSM,
    key: Array,
    states: Float[Array, "n m d"],
    row_cov: Float[AnyArray, "*row_covs m m"],
    lags: Float[AnyArray, "n num_lags m"],
    exogenous: Float[AnyArray, "T k"] | Float[AnyArray, "G T k"],
) -> tuple[Float[Array, "n T m d"], Float[Array, "n T m"]]:
    """Run n paths forward, feeding emissions back as lagged inputs.

    Args:
        model: gives the operators for inputs (lags, exogenous).
        params: its parameters.
        key: a PRNG key.
        states: the states before the first step.
        row_cov: Σ, the same for all paths or one for each.
        lags: the emissions before the first step, the latest first; num_lags may be 0.
        exogenous: the other inputs of each step, the same for all paths; or (G, T, k), the same
            for the first n / G paths, and so on.

    Returns:
        States and emissions of every path.
    """
    n, m, _ = states.shape
    lags, outer = jnp.asarray(lags), jnp.asarray(exogenous)
    outer = outer[None] if outer.ndim == 2 else outer
    groups, root = len(outer), symmetric_root(jnp.asarray(row_cov))

    def step(
        carry: tuple[Array, Array], inputs: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        state, lags = carry
        step_key, outside = inputs
        u = jnp.concatenate([lags.reshape(n, -1), jnp.repeat(outside, n // groups, axis=0)], axis=1)
        # One step of n paths looks like n steps of one sequence.
        lgssm = model.to_lgssm(params, u)
        # All of its random numbers at once, since each call takes long to compile.
        noise = lgssm.process_noise
        normal = jax.random.normal(step_key, (n, m, noise.num_sources + 1), state.dtype)
        shock = noise.mix(normal[..., 1:])
        state = lgssm.transition.apply(state) + lgssm.drift.to_dense() + root @ shock
        spread = jnp.sqrt(lgssm.emission_noise)[:, None] * (root @ normal[..., :1])[:, :, 0]
        emission = jnp.einsum("nmd,nd->nm", state, lgssm.readout) + lgssm.emission_bias + spread
        lags = jnp.concatenate([emission[:, None], lags], axis=1)[:, : lags.shape[1]]
        return (state, lags), (state, emission)

    keys = jax.random.split(key, outer.shape[1])
    _, (paths, emissions) = jax.lax.scan(step, (states, lags), (keys, outer.swapaxes(0, 1)))
    return jnp.moveaxis(paths, 0, 1), jnp.moveaxis(emissions, 0, 1)
