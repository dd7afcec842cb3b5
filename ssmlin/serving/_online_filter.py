"""The filter one step at a time: constant memory, and all that it knows in one state."""

import hashlib
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._buckets import bucket, in_bucket
from ssmlin._files import read_arrays, write_arrays
from ssmlin._typing import AnyArray
from ssmlin.learning import paths
from ssmlin.models import (
    Forecast,
    LinearAttentionSSM,
    ParamsLinearAttentionSSM,
    Particles,
    StateLaw,
    StepPrediction,
)
from ssmlin.serving._online_state import (
    OnlineState,
    Smoothed,
    initial,
    many_steps,
    next_prediction,
    one_step,
    smoothed,
    with_draws,
    with_rows,
)

_KIND = "state of an online filter"


class OnlineFilter:
    r"""The filter of a model one step at a time, in constant memory.

    $$p(y_t \mid y_{1:t-1}), \quad p(S_t \mid y_{1:t}) \qquad t = 1, 2, \dots$$

    The numbers are those of ``model.filter`` over all steps, to rounding. A model with lags keeps
    its last emissions itself, so `inputs` are what is exogenous alone. One program is compiled for
    a step; two events need another, once: the first emission that is partly missing (a covariance
    for each row of a diagonal Σ), and the first lag that is missing (draws of it, each with a
    filter of its own, as ``model.particle_filter`` has them). From then on the state is larger, but
    does not grow either.

    Args:
        model: the model.
        params: its constrained parameters.
        num_particles: draws of what is missing, once a lag is.
        lag: L, how many of the last steps :meth:`smooth` goes back over; 0 for none.
        key: a PRNG key of the draws; default ``jax.random.key(0)``.

    Raises:
        ValueError: an argument out of range, or smoothing with an approximate `covariance`.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
        >>> params, _ = model.initialize()
        >>> online = ssmlin.OnlineFilter(model, params)
        >>> state = online.init()
        >>> for y in jnp.sin(jnp.arange(5.0)):
        ...     state, prediction = online.step(state, y[None])
        >>> prediction.mean.shape, online.forecast(state, horizon=3).means.shape
        ((1,), (3, 1))
    """

    def __init__(
        self,
        model: LinearAttentionSSM,
        params: ParamsLinearAttentionSSM,
        *,
        num_particles: int = 200,
        lag: int = 0,
        key: Array | None = None,
    ) -> None:
        if not isinstance(model, LinearAttentionSSM):
            raise TypeError(f"model: expected a LinearAttentionSSM, got {_checks.describe(model)}")
        self.num_particles = _checks.positive_int("num_particles", num_particles)
        self.lag = _checks.positive_int("lag", lag, minimum=0)
        if lag and model.covariance != "full":
            raise ValueError(
                f"lag: expected 0 for a model with covariance={model.covariance!r}, which has no "
                f"smoother, got {lag}"
            )
        settings = model.settings | {"mesh": None}  # a step is for one device
        # Of a model with lags what is missing is drawn, so that rows share a covariance.
        if model.num_lags > 0 and model.missing == "entries":
            settings["missing"] = "auto"
        model = LinearAttentionSSM(**settings)
        self.model, self.params = model, params
        # As `particle_filter` makes its keys of this one.
        self._key = jax.random.split(jax.random.key(0) if key is None else key)[0]
        self._dtype = np.dtype(params.initial.mean.dtype)
        self._width = model.input_dim - model.num_lags * model.emission_dim

    def init(self) -> OnlineState:
        """The state before the first step; lags that reach before it are zero."""
        return cast(OnlineState, initial(self.model, self.params, self.lag))

    def step(
        self,
        state: OnlineState,
        emission: Float[AnyArray, " m"],
        inputs: Float[AnyArray, " k"] | None = None,
        *,
        mask: bool | np.bool_ = True,
    ) -> tuple[OnlineState, StepPrediction]:
        """Take one step.

        Args:
            state: before the step.
            emission: y, (m,); NaN means missing.
            inputs: exogenous inputs, (p − num_lags·m,); None where there are none.
            mask: False where the emission serves as a lag alone.

        Returns:
            The state after the step, and the law of the emission before it was seen.

        Raises:
            ValueError: an argument of the wrong shape or value; an emission that is partly missing
                where Σ is not diagonal and there are no lags; a lag that is missing, and a
                `covariance` that is not "full".
        """
        y, u = self._checked(emission, inputs, ())
        state = self._ready(state, y)
        found: tuple[OnlineState, StepPrediction] = one_step(
            self.model, self.params, self._key, state, y, u, np.bool_(mask)
        )
        return found

    def steps(
        self,
        state: OnlineState,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T k"] | None = None,
        *,
        mask: Bool[AnyArray, " T"] | None = None,
    ) -> tuple[OnlineState, StepPrediction]:
        """Take many steps in one program, as :meth:`step` would one after another.

        Args:
            state: before the steps.
            emissions: y, (T, m); NaN means missing.
            inputs: (T, p − num_lags·m); None where there are none.
            mask: (T,), False where an emission serves as a lag alone.

        Returns:
            The state after the steps, and the laws of the emissions with a leading axis T.

        Raises:
            ValueError: as :meth:`step`.
        """
        y, u = self._checked(emissions, inputs, (len(emissions),))
        state, steps = self._ready(state, y), len(y)
        counts = np.ones(steps, bool) if mask is None else np.asarray(mask)
        counts = np.pad(counts, (0, bucket(steps) - steps))
        state, laws = many_steps(
            self.model, self.params, self._key, state, in_bucket(y, np.nan), in_bucket(u, 0.0),
            counts, np.int32(steps),
        )  # fmt: skip
        return state, jax.tree.map(lambda x: x[:steps], laws)

    def predict(
        self, state: OnlineState, inputs: Float[AnyArray, " k"] | None = None
    ) -> StepPrediction:
        """The law of the next emission, given its exogenous inputs; the state stays as it is."""
        _, u = self._checked(np.zeros(self.model.emission_dim), inputs, ())
        found: StepPrediction = next_prediction(self.model, self.params, self._key, state, u)
        return found

    def forecast(
        self,
        state: OnlineState,
        horizon: int = 1,
        *,
        future_inputs: Float[AnyArray, "horizon k"] | None = None,
        key: Array | None = None,
        num_samples: int = 1000,
        levels: tuple[float, ...] = (0.5, 0.8, 0.95),
    ) -> Forecast:
        """Predict the next emissions, as ``model.forecast`` does after the same steps.

        Args:
            state: after the last step.
            horizon: h.
            future_inputs: exogenous inputs of the steps to come, (h, p − num_lags·m).
            key: a PRNG key; default ``jax.random.key(0)`` where paths are needed.
            num_samples: how many paths.
            levels: probabilities of the central intervals.

        Returns:
            Means, covariances, intervals and paths; see :class:`ssmlin.Forecast`.

        Raises:
            ValueError: an argument of the wrong shape or range.
        """
        return self.model.forecast_from(
            self.params, state.belief, horizon, lags=state.lags, future_inputs=future_inputs,
            key=key, num_samples=num_samples, levels=levels,
        )  # fmt: skip

    def smooth(self, state: OnlineState) -> Smoothed:
        """Smooth the last L steps given all emissions so far; fewer at the start.

        Raises:
            ValueError: the filter has ``lag=0``; there was no step yet; or a lag was missing, so
                that there are draws, which this does not go back over.
        """
        if self.lag == 0:
            raise ValueError("lag: expected OnlineFilter(..., lag=L) with L >= 1, got 0")
        if state.recent is None:
            raise ValueError(
                "state: expected one without missing lags to smooth, got draws of them; "
                "model.impute completes the series, and model.smoother takes what it returns"
            )
        count = min(self.lag, int(state.num_steps))
        if count == 0:
            raise ValueError("state: expected one after a step or more, got one before the first")
        found = smoothed(self.model, self.params, state.recent, np.int32(count))
        whole = jax.tree.map(np.asarray, found)
        cut = {k: x[:count] for k, x in whole._asdict().items() if k != "row_cov"}
        return cast(Smoothed, whole._replace(**cut))

    # ------------------------------------------------------------------------- files

    def save(self, path: str | Path, state: OnlineState) -> None:
        """Write a state to a safetensors file; an older one stays whole if writing fails.

        Raises:
            OSError: the file cannot be written.
        """
        write_arrays(Path(path), _KIND, *self.to_arrays(state))

    def load(self, path: str | Path) -> OnlineState:
        """Read a state that :meth:`save` wrote, of a filter with this model and these settings.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged, or of another model or other settings.
        """
        return self.from_arrays(*read_arrays("path", Path(path), _KIND))

    def to_arrays(self, state: OnlineState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A state as arrays by name, and what tells which filter it is of."""
        arrays = dict(zip(paths(state), map(np.asarray, jax.tree.leaves(state)), strict=True))
        is_drawn = isinstance(state.belief, Particles)
        by_rows = isinstance(state.belief, StateLaw) and state.belief.cov.ndim == 3
        form = "draws" if is_drawn else "rows" if by_rows else "law"
        return arrays, {"filter": self._described(), "form": form}

    def from_arrays(
        self, arrays: dict[str, np.ndarray], description: dict[str, Any]
    ) -> OnlineState:
        """The inverse of :meth:`to_arrays`."""
        own, got = self._described(), description.get("filter")
        if got != own:
            raise ValueError(f"state: expected one of the filter {own}, got one of {got}")
        state = self.init()
        if description["form"] == "draws":
            state = with_draws(state, self.num_particles)
        elif description["form"] == "rows":
            state = with_rows(state, self.model.emission_dim)
        leaves, structure = jax.tree.flatten(state)
        names = paths(state)
        shapes = {name: (x.shape, x.dtype) for name, x in zip(names, leaves, strict=True)}
        if shapes != {name: (x.shape, x.dtype) for name, x in arrays.items()}:
            raise ValueError("state: expected the arrays of this filter, got others")
        return cast(
            OnlineState, jax.tree.unflatten(structure, [jax.device_put(arrays[n]) for n in names])
        )

    def _described(self) -> dict[str, Any]:
        """What a state depends on, as JSON can hold it; the parameters by their checksum."""
        digest = hashlib.sha256(repr(sorted(self.model.settings.items())).encode())
        for x in (*jax.tree.leaves(self.params), jax.random.key_data(self._key)):
            digest.update(np.asarray(x).tobytes())
        return {
            "model": digest.hexdigest(),
            "num_particles": self.num_particles,
            "lag": self.lag,
        }

    # ------------------------------------------------------------------------- what is missing

    def _checked(
        self, emissions: object, inputs: object, lead: tuple[int, ...]
    ) -> tuple[Float[np.ndarray, "*T m"], Float[np.ndarray, "*T k"]]:
        """Emissions and exogenous inputs in NumPy, where nothing is compiled."""
        y = np.asarray(emissions, self._dtype)
        if y.shape != (*lead, self.model.emission_dim):
            raise ValueError(
                f"emission: expected shape {(*lead, self.model.emission_dim)}, got {y.shape}"
            )
        if np.isinf(y).any():
            raise ValueError("emission: expected finite values or NaN for missing, got an infinity")
        u = np.zeros((*lead, 0)) if inputs is None else np.asarray(inputs)
        if u.shape != (*lead, self._width):
            raise ValueError(
                f"inputs: expected the exogenous inputs, of shape {(*lead, self._width)}, got "
                f"{None if inputs is None else u.shape}"
            )
        if not np.isfinite(u).all():
            raise ValueError("inputs: expected finite values, got a NaN or an infinity")
        return y, u.astype(self._dtype)

    def _ready(self, state: OnlineState, emissions: Float[np.ndarray, "*T m"]) -> OnlineState:
        """The state in the form that these emissions need."""
        missing = np.isnan(emissions)
        if not missing.any() or isinstance(state.belief, Particles):
            return state
        if self.model.num_lags > 0:
            if self.model.covariance != "full":
                raise ValueError(
                    "emission: expected one that is known, since it is a lag of later steps and a "
                    f"model with covariance={self.model.covariance!r} has no draws of it; got NaN; "
                    "fill it in, or use covariance='full'"
                )
            return with_draws(state, self.num_particles)
        if self.model.missing == "rows" or state.belief.cov.ndim == 3:
            return state
        # Raises where rows cannot have covariances of their own.
        if self.model.given_missing(emissions).missing == "entries":
            return with_rows(state, self.model.emission_dim)
        return state
