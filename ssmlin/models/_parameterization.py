"""The parameters of the model: where they start, what is trainable, their prior, their file."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin import _checks
from ssmlin._buckets import in_bucket
from ssmlin._typing import AnyArray
from ssmlin.learning import paths, property_leaves, variable_name
from ssmlin.models._construction import Construction
from ssmlin.models._features import lagged_inputs
from ssmlin.models._least_squares import autoregression_over_gaps, least_squares
from ssmlin.models._missing_lags import has_missing_lags
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._parts import LeastSquares, Start
from ssmlin.models._priors import Prior


class Parameterization(Construction):
    """What the parts do with their parameters; see :class:`ssmlin.LinearAttentionSSM`."""

    def initialize(
        self,
        key: Array | None = None,
        method: Literal["regression", "prior"] = "regression",
        *,
        emissions: Float[AnyArray, "*B T m"] | None = None,
        inputs: Float[AnyArray, "*B T p"] | None = None,
        **parameters: Any,
    ) -> tuple[ParamsLinearAttentionSSM, ParamsLinearAttentionSSM]:
        """Start at the linear regression on the inputs, with a memory that writes nothing yet.

        With data, D, d and Σ are those of a least-squares regression of emissions on inputs
        (slightly shrunk); without, D = 0, d = 0 and Σ = I. Where D and d are integrated out, W
        whitens the inputs, τ² matches the least-squares weights, and the drift q is the one of the
        highest likelihood if that gains two nats, else 1e-7. Batches of sequences are pooled. A
        column with too few values to estimate a residual starts at the prior's `series_variance`.
        Where lags are missing the regression is the autoregression of the highest likelihood, with
        what is missing integrated out (under a trace: of the steps whose lags are known).

        Args:
            key: a PRNG key for the small random weights; default ``jax.random.key(0)``.
            method: "regression", or "prior" to start as without data in any case.
            emissions: (T, m) or (B, T, m); NaN means missing.
            inputs: (T, p) or (B, T, p).
            **parameters: values of parameters, in place of the start, by the names they have in a
                posterior: ``alpha``, ``process_noise``, ``initial_mean``, ``row_cov``,
                ``regression_bias`` ... None is the same as not given.

        Returns:
            Parameters and matching properties (what is trainable, and its constrainer).

        Raises:
            ValueError: data or a parameter of the wrong shape, or a parameter out of its range.
            TypeError: data that are not floating point arrays, or a parameter the model has not.

        Examples:
            >>> import ssmlin
            >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 2)
            >>> params, props = model.initialize(alpha=0.5)
            >>> float(params.tokens.alpha.value)
            0.5
        """
        _checks.one_of("method", method, ("regression", "prior"))
        y = u = regression = None
        if emissions is not None and method == "regression":
            y = _checks.float_array("emissions", emissions)
            if y.shape[-1:] != (self.emission_dim,):
                raise ValueError(
                    f"emissions: expected shape (..., T, emission_dim = {self.emission_dim}), "
                    f"got {tuple(y.shape)}"
                )
            u = self._check_inputs(inputs, y.shape[:-1], y.dtype, missing_lags=True)
            if self.regression.weights and self._lacks_lags(u) and _checks.is_concrete(y):
                parts = (self.regression, self.row_cov)
                regression = autoregression_over_gaps(y, u, self.num_lags, *parts)
            y, u = self._to_start(y, u)
        start_key = jax.random.key(0) if key is None else key
        params = self._initial_params(start_key, y, u, regression)
        given = {name: x for name, x in parameters.items() if x is not None}
        return self._set(params, given), self.param_props

    def _to_start(
        self, emissions: Float[Array, "*B T m"], inputs: Float[Array, "*B T p"]
    ) -> tuple[Float[Array, "*B S m"], Float[Array, "*B S p"]]:
        """The steps whose lags are known, the others missing, of a length that others have, too."""
        if not (_checks.is_concrete(emissions) and _checks.is_concrete(inputs)):
            gaps = has_missing_lags(inputs, self._num_lagged)[..., None]
            return jnp.where(gaps, jnp.nan, emissions), jnp.where(jnp.isnan(inputs), 0.0, inputs)
        # In NumPy nothing is compiled.
        y, u = np.asarray(emissions), np.asarray(inputs)
        y = np.where(has_missing_lags(u, self._num_lagged)[..., None], np.nan, y).astype(y.dtype)
        u = np.nan_to_num(u, nan=0.0)
        known: tuple[Array, Array] = jax.device_put((in_bucket(y, np.nan), in_bucket(u, 0.0)))
        return known

    @partial(jax.jit, static_argnums=0)
    def _initial_params(
        self,
        key: Array,
        emissions: Array | None,
        inputs: Array | None,
        regression: LeastSquares | None = None,
    ) -> ParamsLinearAttentionSSM:
        """Where to start; the regression is made here unless it is given."""
        if regression is None:
            parts = (self.regression, self.row_cov)
            regression = least_squares(emissions, inputs, self.sizes, *parts)
        start = Start(regression, emissions, inputs)
        params = {
            name: part.initialize(key, self.sizes, start) for name, part in self.parts.items()
        }
        return ParamsLinearAttentionSSM(**params)

    def _set(
        self, params: ParamsLinearAttentionSSM, values: Mapping[str, object]
    ) -> ParamsLinearAttentionSSM:
        """Parameters of which some are given by name."""
        leaves, structure = jax.tree.flatten(params)
        names = [variable_name(path) for path in paths(params)]
        if unknown := sorted(values.keys() - set(names)):
            raise TypeError(
                f"{unknown[0]}: expected a parameter of this model, which are "
                f"{', '.join(names)}; got another"
            )
        properties = property_leaves(self.param_props)
        for i, (name, leaf, prop) in enumerate(zip(names, leaves, properties, strict=True)):
            if name not in values:
                continue
            x = _checks.float_array(name, values[name]).astype(leaf.dtype)
            if x.shape != leaf.shape:
                raise ValueError(f"{name}: expected shape {leaf.shape}, got {tuple(x.shape)}")
            _checks.finite(name, x)
            free = x if prop.constrainer is None else prop.constrainer.inverse(x)
            # A bound is at infinity there; what is out of range is not a number.
            if _checks.is_concrete(free) and np.isnan(np.asarray(free)).any():
                raise ValueError(f"{name}: expected a value in its range, got {x}")
            leaves[i] = x
        set_params: ParamsLinearAttentionSSM = jax.tree.unflatten(structure, leaves)
        return set_params

    @property
    def param_props(self) -> ParamsLinearAttentionSSM:
        """What is trainable, and how it is constrained, as :meth:`initialize` returns it.

        Examples:
            >>> import ssmlin
            >>> props = ssmlin.LinearAttentionSSM("mamba2", 1, 1, 2).param_props
            >>> props.tokens.keys.weights.trainable, props.initial.mean.trainable
            (True, False)
        """
        properties = {name: part.properties(self.sizes) for name, part in self.parts.items()}
        return ParamsLinearAttentionSSM(**properties)

    def _priors(self, params: ParamsLinearAttentionSSM) -> list[tuple[str, Prior, Array]]:
        """The prior of each parameter that has one, with its path and its value."""
        priors = []
        for name, part in self.parts.items():
            own = getattr(params, name)
            values = dict(zip(paths(own), jax.tree.leaves(own), strict=True))
            for path, prior in part.priors(own, self.sizes).items():
                priors.append((f"{name}.{path}", prior, values[path]))
        return priors

    def prior_distributions(self, params: ParamsLinearAttentionSSM) -> dict[str, tfd.Distribution]:
        """The prior laws of the constrained parameters by path; they are independent.

        A Σ that is integrated out is not among them, nor is M_0, which has none.

        Args:
            params: the parameters, for shapes and dtypes; and for r where Σ has a prior, since
                that is on r Σ.

        Returns:
            Distributions whose event is a whole parameter.
        """
        return {path: prior.make_law() for path, prior, _ in self._priors(params)}

    def log_prior(self, params: ParamsLinearAttentionSSM) -> Float[Array, ""]:
        """Log prior density of the constrained parameters, see :meth:`prior_distributions`."""
        terms = [prior.log_prob(value) for _, prior, value in self._priors(params)]
        return sum(terms, jnp.zeros((), params.initial.variances.dtype))

    def save(
        self,
        path: str | Path,
        params: ParamsLinearAttentionSSM,
        props: ParamsLinearAttentionSSM | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the model, its parameters and what is trainable to one file.

        The file is a safetensors file; it is written whole or not at all. :func:`ssmlin.load`
        reads it.

        Args:
            path: the file; its folder must exist.
            params: the parameters.
            props: their properties, whose trainable flags are kept; default those of `initialize`.
            notes: whatever else is to be kept and JSON can hold, such as the scaling of the data;
                see :func:`ssmlin.models.load_notes`.

        Raises:
            OSError: the file cannot be written.
            ValueError: parameters of another model, or a mechanism or a part that is not
                registered, see :func:`ssmlin.register_mechanism`.
        """
        # That module reads models, too, so it imports this one.
        from ssmlin.models._files import save

        save(path, self, params, props, notes)

    # ------------------------------------------------------------------------- the inputs

    @property
    def _num_lagged(self) -> int:
        """How many of the inputs are lags; they come first."""
        return self.num_lags * self.emission_dim

    def _lacks_lags(self, inputs: Float[AnyArray, "... p"]) -> bool:
        """Whether lags are known to be missing; under a trace nothing is known."""
        if self.num_lags == 0 or not _checks.is_concrete(inputs):
            return False
        # As an array of NumPy before it is cut: a slice made inside a trace is traced.
        return bool(np.isnan(np.asarray(inputs)[..., : self._num_lagged]).any())

    def _check_inputs(
        self, inputs: object, lead: tuple[int, ...], dtype: jnp.dtype, *, missing_lags: bool = False
    ) -> Float[Array, "... p"]:
        """Inputs as an array with the given leading axes; no inputs are p = 0 columns."""
        if inputs is None:
            if self.input_dim > 0:
                raise ValueError(f"inputs: expected shape {(*lead, self.input_dim)}, got None")
            return jnp.zeros((*lead, 0), dtype)
        u = _checks.float_array("inputs", inputs)
        if u.shape != (*lead, self.input_dim):
            raise ValueError(
                f"inputs: expected shape {(*lead, self.input_dim)} (leading axes as the "
                f"emissions', then input_dim), got {tuple(u.shape)}"
            )
        if not self._lacks_lags(u):
            return _checks.finite("inputs", u)
        values = np.asarray(u)
        if not missing_lags:
            gaps = np.isnan(values[..., : self._num_lagged]).any(axis=-1)
            step = int(np.argwhere(gaps)[0][-1]) + 1
            raise ValueError(
                "inputs: expected lags that are known, got a missing one at step "
                f"{step}; `particle_filter`, `forecast` and `fit` integrate it out, and "
                "`impute` draws what is missing"
            )
        with jax.ensure_compile_time_eval():  # inside a trace a constant array would be traced
            _checks.finite("inputs", jnp.asarray(values[..., self._num_lagged :]))
        return u

    def compute_inputs(
        self,
        emissions: Float[AnyArray, "T m"],
        prev_emissions: Float[AnyArray, "num_lags m"] | None = None,
        *,
        exogenous: Float[AnyArray, "T k"] | None = None,
    ) -> Float[Array, "T p"]:
        """Inputs of a model with lags: lagged emissions, then what is exogenous.

        The lags of a missing emission are missing (NaN), too. `initialize`, `fit`, `forecast`,
        `particle_filter` and `impute` take them; the other methods raise an error.

        Args:
            emissions: y, (T, m).
            prev_emissions: the num_lags emissions before the first, oldest first; default zeros.
            exogenous: further inputs, (T, k) with num_lags·m + k = p.

        Returns:
            The inputs u, (T, p).

        Raises:
            ValueError: arrays of the wrong shape.
            TypeError: arguments that are not floating point arrays.
        """
        parts = []
        if self.num_lags > 0:
            parts.append(lagged_inputs(emissions, self.num_lags, prev_emissions))
        if exogenous is not None:
            parts.append(_checks.float_array("exogenous", exogenous))
        steps = len(emissions)
        if sum(x.shape[-1] for x in parts) != self.input_dim or any(
            x.shape[:-1] != (steps,) for x in parts
        ):
            needed = self.input_dim - self._num_lagged
            got = None if exogenous is None else tuple(np.shape(exogenous))
            raise ValueError(f"exogenous: expected shape {(steps, needed)}, got {got}")
        return jnp.concatenate(parts, axis=-1) if parts else jnp.zeros((steps, 0))
