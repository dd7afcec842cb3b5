r"""The dynamax model: a linear attention with learned features of the inputs."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.parameters import ParameterProperties
from dynamax.ssm import SSM
from dynamax.utils.bijectors import RealToPSDBijector
from jaxtyping import Array, Bool, Float
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin import _checks
from ssmlin.inference import (
    PosteriorMatrixLGSSM,
    PosteriorRowCov,
    RowCovLaw,
    integrate_row_cov,
    matrix_lgssm_approximate_filter,
    matrix_lgssm_filter,
    matrix_lgssm_posterior_sample,
    matrix_lgssm_sample,
    matrix_lgssm_smoother,
    symmetric_root,
)
from ssmlin.learning import FitHistory, fit_em, paths, property_leaves, variable_name
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.mechanisms import MECHANISMS, Gate, Mechanism, get_mechanism, matrix_lgssm, unit
from ssmlin.models import fitting
from ssmlin.models.autoregression import estimate_autoregression
from ssmlin.models.closed_form_updates import BLOCKS, m_step
from ssmlin.models.coefficients import initial_coefficients
from ssmlin.models.features import (
    ParamsGate,
    ParamsProjection,
    gate,
    lagged_inputs,
    project,
)
from ssmlin.models.forecast import (
    Forecast,
    draw_states,
    exact_forecast,
    sampled_forecast,
    simulate,
)
from ssmlin.models.missing_lags import (
    ParticlePosterior,
    Particles,
    has_missing_lags,
    impute,
    lagged_values,
    resampled_index,
    run_particles,
)
from ssmlin.models.parameters import (
    ParamsAttentionDynamics,
    ParamsAttentionEmissions,
    ParamsAttentionInitial,
    ParamsCoefficients,
    ParamsLinearAttentionSSM,
    ShrinkagePrior,
    log_density,
    make_gate,
)

ProcessNoise = Literal["isotropic", "diagonal", "stationary", "write", "none"]
RowCov = Literal["identity", "diagonal", "full"]

#: A forecast with missing lags has at most so many draws of them.
_MAX_PARTICLES = 1000


class StateLaw(NamedTuple):
    """The law of a state and, where it is integrated out, of Σ: all that the next steps need.

    Attributes:
        mean: (m, d).
        cov: relative to Σ, (d, d); or for each row, (m, d, d).
        row_cov: the law of Σ, or None.
    """

    mean: Float[Array, "m d"]
    cov: Float[Array, "d d"] | Float[Array, "m d d"]
    row_cov: RowCovLaw | None = None


class LinearAttentionSSM(SSM):
    r"""A linear attention as a dynamax state space model.

    $$S_0 \sim \mathrm{MN}(M_0, \Sigma, \mathrm{diag}(p_0)), \qquad
      S_t = S_{t-1} A_t + B_t + W_t, \quad W_t \sim \mathrm{MN}(0, \Sigma, Q_t)$$
    $$y_t = S_t h_t + D u_t + d + \varepsilon_t, \qquad \varepsilon_t \sim N(0, r \Sigma)$$

    Keys, values, queries and gates are functions of the inputs u_t: linear projections, of unit
    length for keys and queries if so chosen, and logistic gates. Given the inputs the model is
    exactly linear Gaussian. With S = 0 it is a linear regression on the inputs, so with lagged
    emissions as inputs a linear autoregression. For ``bayesian_memory`` h_t is the key, and with
    ``key_dim`` equal to ``input_dim`` (or one more, for an intercept) the keys are the inputs
    themselves: a regression whose coefficients D + S_t drift.

    It is accepted wherever dynamax expects an SSM. Its latent state is the matrix S_t, (m, d), or
    [S_t, C_t], (m, d + k), where D and d are integrated out.

    Args:
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        emission_dim: m.
        input_dim: p; 0 for no inputs.
        key_dim: d.
        num_steps: n_h, the micro-steps a token of a multi-step mechanism.
        gates: "input": gates depend on the inputs; "constant": they do not. A gate that is a
            constant of the mechanism, as RetNet's decay, never does, and is not trained.
        process_noise: Q_t: "isotropic" q I; "diagonal"; "stationary" (1 − w_t²) σ², w_t the
            diagonal of A_t; "write" σ² times what an error in the values would do; "none".
        row_cov: Σ: "identity", "diagonal" or "full".
        integrate_row_cov: take Σ, not "identity", as unknown under its prior and integrate it out
            exactly. Then predictive laws are Student-t, in likelihoods and forecasts; a posterior's
            `row_cov` is E[Σ | y], all data given; sampled paths each have their own Σ, drawn from
            its law given the emissions, or in `sample` from its prior; and each sequence of a
            batch has its own Σ. The value in the parameters is fixed; only `to_lgssm`, the
            pointwise laws and dynamax's joint `log_prob` are given it. See
            :func:`ssmlin.integrate_row_cov`.
        row_cov_discount: δ in [0.75, 1] where Σ is integrated out: below 1 it changes over time,
            and about the last 1 / (1 − δ) steps tell it; paths sampled ahead keep the Σ they
            start with.
        num_lags: say that the first num_lags·m inputs are lagged emissions, as made by
            :meth:`compute_inputs`; then `sample` and `forecast` can feed emissions back.
        normalization: "unit" or "none" for keys and queries; default "none" for
            ``bayesian_memory`` and "unit" for the others.
        has_input_weights: whether there is a D.
        has_emissions_bias: whether there is a d.
        integrate_input_weights: take D and d as unknown and integrate them out exactly, as k more
            columns C_t of the state: a regression whose coefficients may drift, beside the memory.
            $C_0 \\sim \\mathrm{MN}(0, \\Sigma, \\tau^2 I)$, with changes of covariance q I at each
            step, is read by the whitened inputs, $y_t = S_t h_t + C_t W (u_t, 1) + \\varepsilon_t$.
            See :class:`ssmlin.models.ParamsCoefficients`.
        negative_eigenvalues: see :func:`ssmlin.linear_attention`.
        covariance: "full" is exact; the others are the faster approximations of
            :func:`ssmlin.matrix_lgssm_approximate_filter`, which have no smoother.
        prior: the prior on the parameters.

    Raises:
        ValueError: an argument out of range.
        TypeError: an argument that is not of the expected type.

    Example:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> y = jnp.sin(jnp.arange(40.0))[:, None]
        >>> model = ssmlin.LinearAttentionSSM("gated_deltanet", emission_dim=1, input_dim=2,
        ...     key_dim=3, num_lags=2)
        >>> u = model.compute_inputs(y)
        >>> params, props = model.initialize(jax.random.key(0), emissions=y, inputs=u)
        >>> model.filter(params, y, u).filtered_means.shape
        (40, 1, 3)
    """

    def __init__(
        self,
        mechanism: str | Mechanism = "gated_deltanet",
        emission_dim: int = 1,
        input_dim: int = 0,
        key_dim: int = 4,
        *,
        num_steps: int = 2,
        gates: Literal["input", "constant"] = "input",
        process_noise: ProcessNoise = "isotropic",
        row_cov: RowCov = "diagonal",
        integrate_row_cov: bool = False,
        row_cov_discount: float = 1.0,
        num_lags: int = 0,
        normalization: Literal["unit", "none"] | None = None,
        has_input_weights: bool = True,
        has_emissions_bias: bool = True,
        integrate_input_weights: bool = False,
        negative_eigenvalues: bool = False,
        covariance: Literal["full", "diagonal", "isotropic", "reset"] = "full",
        prior: ShrinkagePrior | None = None,
    ) -> None:
        self.mechanism = get_mechanism(mechanism, negative_eigenvalues)
        self.emission_dim = _checks.positive_int("emission_dim", emission_dim)
        self.input_dim = _checks.positive_int("input_dim", input_dim, minimum=0)
        self.key_dim = _checks.positive_int("key_dim", key_dim)
        self.num_steps = _checks.positive_int("num_steps", num_steps)
        self.gates = _checks.one_of("gates", gates, ("input", "constant"))
        self.process_noise = _checks.one_of(
            "process_noise",
            process_noise,
            ("isotropic", "diagonal", "stationary", "write", "none"),
        )
        self.row_cov = _checks.one_of("row_cov", row_cov, ("identity", "diagonal", "full"))
        self.integrate_row_cov = bool(integrate_row_cov)
        if self.integrate_row_cov and row_cov == "identity":
            raise ValueError(
                "integrate_row_cov: expected False where row_cov is 'identity', which is known; "
                "got True"
            )
        self.row_cov_discount = float(row_cov_discount)
        # Below 0.75 the prior's three degrees of freedom would leave no variance.
        if not 0.75 <= self.row_cov_discount <= 1:
            raise ValueError(
                f"row_cov_discount: expected a number in [0.75, 1], got {row_cov_discount}"
            )
        if self.row_cov_discount < 1 and not self.integrate_row_cov:
            raise ValueError(
                "row_cov_discount: expected 1 unless integrate_row_cov=True, got "
                f"{row_cov_discount}"
            )
        self.num_lags = _checks.positive_int("num_lags", num_lags, minimum=0)
        if self.num_lags * emission_dim > input_dim:
            raise ValueError(
                f"num_lags: expected num_lags * emission_dim <= input_dim = {input_dim}, got "
                f"{num_lags} * {emission_dim}"
            )
        writes = self.mechanism.writes_values
        if normalization is None:
            normalization = "unit" if writes else "none"
        self.normalization = _checks.one_of("normalization", normalization, ("unit", "none"))
        if self.process_noise == "write" and not writes:
            raise ValueError(
                f"process_noise: expected another kind for {self.mechanism.name!r}, which writes "
                "no values; got 'write'"
            )
        self.has_input_weights = bool(has_input_weights) and input_dim > 0
        self.has_emissions_bias = bool(has_emissions_bias)
        self.integrate_input_weights = bool(integrate_input_weights)
        if self.integrate_input_weights and not (self.has_input_weights or self.has_emissions_bias):
            raise ValueError(
                "integrate_input_weights: expected False for a model without input weights and "
                "bias; got True"
            )
        self.covariance = _checks.one_of(
            "covariance", covariance, ("full", "diagonal", "isotropic", "reset")
        )
        self.prior = ShrinkagePrior() if prior is None else prior
        self._is_made = True

    # Compiled programs are kept by the model: one that changed would get those of what it was.

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_is_made", False):
            raise AttributeError(
                f"{name}: expected no change of a model once it is made, got {value!r}; make "
                f"another: LinearAttentionSSM(**model.settings | {{{name!r}: ...}})"
            )
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name}: expected no change of a model once it is made, got del")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), frozenset(vars(self).items())))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make this model again; the prior's are under "prior".

        The mechanism is its name; if that is not enough to make it again, the mechanism itself.
        """
        names = inspect.signature(type(self)).parameters
        plain = {name: getattr(self, name) for name in names if hasattr(self, name)}
        mechanism: str | Mechanism = self.mechanism.name
        known = MECHANISMS.get(self.mechanism.name)
        if known is None or known(self.mechanism.negative_eigenvalues) != self.mechanism:
            mechanism = self.mechanism
        return plain | {
            "mechanism": mechanism,
            "negative_eigenvalues": self.mechanism.negative_eigenvalues,
            "prior": asdict(self.prior),
        }

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{type(self).__name__}({arguments})"

    @property
    def emission_shape(self) -> tuple[int]:
        """Shape of one emission, (m,)."""
        return (self.emission_dim,)

    @property
    def inputs_shape(self) -> tuple[int] | None:
        """Shape of one step's inputs, (p,), or None."""
        return (self.input_dim,) if self.input_dim > 0 else None

    @property
    def _gate_ranges(self) -> dict[str, tuple[float, float]]:
        """The gates of the mechanism and their intervals."""
        return {name: self.mechanism.gate_range(name) for name in self._scalar_gates}

    @property
    def _scalar_gates(self) -> tuple[str, ...]:
        """The gates that have an interval; the others are keys."""
        gates = self.mechanism.gates.items()
        return tuple(name for name, gate in gates if gate.kind != "key")

    @property
    def _key_gates(self) -> tuple[str, ...]:
        """The gates that are keys."""
        return tuple(name for name in self.mechanism.gates if name not in self._scalar_gates)

    def _ordered(self, gates: dict[str, Any]) -> dict[str, Any]:
        """Gates in the order of the parameters: the keys first, each by name."""
        return {name: gates[name] for names in (self._key_gates, self._scalar_gates)
                for name in sorted(names)}  # fmt: skip

    # ----------------------------------------------------------------- parameters

    def initialize(
        self,
        key: Array | None = None,
        method: Literal["regression", "prior"] = "regression",
        *,
        emissions: Float[Array, "T m"] | None = None,
        inputs: Float[Array, "T p"] | None = None,
        **parameters: Any,
    ) -> tuple[ParamsLinearAttentionSSM, ParamsLinearAttentionSSM]:
        """Start at the linear regression on the inputs, with a memory that writes nothing yet.

        With data, D, d and Σ are those of a least-squares regression of emissions on inputs
        (slightly shrunk); without, D = 0, d = 0 and Σ = I. Where D and d are integrated out, W
        whitens the inputs, τ² matches the least-squares weights, and the drift q is the one of the
        highest likelihood if that gains two nats, else 1e-7. Batches of sequences are pooled. A
        column of too few values to tell a residual has the prior's `series_variance`. Where lags
        are missing the regression is the autoregression of the highest likelihood, what is missing
        integrated out (under a trace: of the steps whose lags are known).

        Args:
            key: a PRNG key for the small random weights; default ``jax.random.key(0)``.
            method: "regression", or "prior" to start as without data in any case.
            emissions: (T, m) or (B, T, m); NaN means missing.
            inputs: (T, p) or (B, T, p).
            **parameters: values of parameters, in place of those found, by the names they have in
                a posterior: ``alpha``, ``process_noise``, ``initial_mean``, ``emissions_bias`` ...
                None for those found.

        Returns:
            Parameters and matching properties (what is trainable, and its constrainer).

        Raises:
            ValueError: data or a parameter of the wrong shape, or a parameter out of its range.
            TypeError: data that are not floating point arrays, or a parameter the model has not.

        Example:
            >>> import ssmlin
            >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 2)
            >>> params, props = model.initialize(alpha=0.5)
            >>> float(params.dynamics.alpha.value)
            0.5
        """
        _checks.one_of("method", method, ("regression", "prior"))
        y = u = None
        if emissions is not None and method == "regression":
            y = _checks.float_array("emissions", emissions)
            if y.shape[-1:] != (self.emission_dim,):
                raise ValueError(
                    f"emissions: expected shape (..., T, emission_dim = {self.emission_dim}), "
                    f"got {tuple(y.shape)}"
                )
            u = self._check_inputs(inputs, y.shape[:-1], y.dtype, missing_lags=True)
        regression = self._regression_over_gaps(y, u)
        if y is not None and u is not None:
            y = jnp.where(has_missing_lags(u, self._num_lagged)[..., None], jnp.nan, y)
            u = jnp.where(jnp.isnan(u), 0.0, u)
        start_key = jax.random.key(0) if key is None else key
        params = self._initial_params(start_key, y, u, regression)
        given = {name: x for name, x in parameters.items() if x is not None}
        return self._set(params, given), self.param_props

    def _set(
        self, params: ParamsLinearAttentionSSM, values: Mapping[str, Any]
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
        return jax.tree.unflatten(structure, leaves)

    @property
    def _micro_steps(self) -> tuple[int, ...]:
        """The axis of micro-steps, if there is one."""
        return (self.num_steps,) if self.mechanism.multi_step else ()

    def _is_driven(self, gate: Gate) -> bool:
        """Whether a gate depends on the inputs."""
        return self.gates == "input" and self.input_dim > 0 and gate.trainable

    def _gate_keys(self, key: Array) -> dict[str, Array]:
        """A PRNG key for the weights of each gate with an interval.

        Which one says what the gate is, not what it is called; more gates of a sort have more keys.
        """
        numbers: dict[str, int] = {}
        for name in self._scalar_gates:
            gate = self.mechanism.gates[name]
            number = 2 * (gate.kind == "rate") + (gate.per == "column")
            while number in numbers.values():
                number += 4
            numbers[name] = number
        return {name: jax.random.fold_in(key, number) for name, number in numbers.items()}

    @partial(jax.jit, static_argnums=0)
    def _initial_params(
        self,
        key: Array,
        emissions: Array | None,
        inputs: Array | None,
        regression: tuple[Array, Array, Array] | None = None,
    ) -> ParamsLinearAttentionSSM:
        """Where to start; the regression is made here unless it is given."""
        m, p, d, steps = self.emission_dim, self.input_dim, self.key_dim, self._micro_steps
        keys, prior = jax.random.split(key, 5), self.prior
        if regression is None:
            regression = self._regression(emissions, inputs)
        skip, bias, residual_cov = regression
        variances, dtype = jnp.diag(residual_cov), residual_cov.dtype

        def projection(k: Array, shape: tuple[int, ...], scale: float) -> ParamsProjection:
            wk, bk = jax.random.split(k)
            return ParamsProjection(
                scale * jax.random.normal(wk, (*shape, p), dtype),
                scale * jax.random.normal(bk, shape, dtype),
            )

        dynamics: dict[str, Any] = dict.fromkeys(("keys", "queries", "values", "process_noise"))
        gates: dict[str, Any] = {}
        if self.mechanism.writes_values:
            dynamics["keys"] = projection(keys[0], (*steps, d), prior.key_scale)
            dynamics["queries"] = projection(keys[1], (d,), prior.key_scale)
            # A memory that writes nothing yet: the start is the regression.
            dynamics["values"] = projection(keys[2], (*steps, m), 0.0)
        else:
            dynamics["keys"] = self._identity_keys(dtype)
        for i, name in enumerate(self._key_gates):
            gate_key = keys[3] if i == 0 else jax.random.fold_in(keys[3], i)
            gates[name] = projection(gate_key, (d,), prior.key_scale)
        for name, gate_key in self._gate_keys(keys[4]).items():
            declared = self.mechanism.gates[name]
            sizes = {"n_h": self.num_steps, "d": d, "m": m}
            shape = declared.shape(sizes, self.mechanism.multi_step)
            scale = 0.1 * prior.gate_scale if self._is_driven(declared) else None
            gates[name] = make_gate(gate_key, jnp.full(shape, declared.start, dtype), p, scale)
        if self.process_noise != "none":
            shape = (d,) if self.process_noise == "diagonal" else ()
            dynamics["process_noise"] = jnp.full(shape, prior.process_noise[0], dtype)

        noise = variances.mean() if self.row_cov == "identity" else jnp.ones((), dtype)
        rows = {"identity": jnp.ones(m, dtype), "diagonal": variances, "full": residual_cov}
        return ParamsLinearAttentionSSM(
            initial=ParamsAttentionInitial(
                mean=jnp.zeros((m, d), dtype),
                variances=jnp.full((d,), prior.initial_variance[0], dtype),
            ),
            dynamics=ParamsAttentionDynamics(**dynamics, gates=self._ordered(gates)),
            emissions=ParamsAttentionEmissions(
                input_weights=skip if self._has_weights else None,
                bias=bias if self._has_bias else None,
                noise=noise,
                row_cov=rows[self.row_cov],
                coefficients=self._initial_coefficients(emissions, inputs, regression),
            ),
        )

    @property
    def _has_weights(self) -> bool:
        """Whether D is a parameter."""
        return self.has_input_weights and not self.integrate_input_weights

    @property
    def _has_bias(self) -> bool:
        """Whether d is a parameter."""
        return self.has_emissions_bias and not self.integrate_input_weights

    def _regressors(self, inputs: Float[Array, "... p"]) -> Float[Array, "... k"]:
        """What D and d are the coefficients of: the inputs and one."""
        parts = [inputs] if self.has_input_weights else []
        if self.has_emissions_bias:
            parts.append(jnp.ones((*inputs.shape[:-1], 1), inputs.dtype))
        return jnp.concatenate(parts, axis=-1)

    def _initial_coefficients(
        self,
        emissions: Array | None,
        inputs: Array | None,
        regression: tuple[Float[Array, "m p"], Float[Array, " m"], Float[Array, "m m"]],
    ) -> ParamsCoefficients | None:
        """The law of D and d where they are integrated out, from their least-squares values."""
        if not self.integrate_input_weights:
            return None
        skip, bias, row_cov = regression
        # As the regressors are made of the inputs and one, so are these of D and d.
        parts = [skip] if self.has_input_weights else []
        parts += [bias[:, None]] if self.has_emissions_bias else []
        coefficients = jnp.concatenate(parts, axis=-1)
        if emissions is None or inputs is None:
            x = self._regressors(jnp.zeros((1, 1, self.input_dim), row_cov.dtype))
            return initial_coefficients(None, x, coefficients, row_cov)
        y = emissions.reshape(-1, *emissions.shape[-2:])
        x = self._regressors(inputs.reshape(*y.shape[:2], self.input_dim))
        return initial_coefficients(y, x, coefficients, row_cov)

    def _identity_keys(self, dtype: Any) -> ParamsProjection:
        """Keys that are the inputs, then ones."""
        d, p = self.key_dim, self.input_dim
        return ParamsProjection(jnp.eye(d, p, dtype=dtype), (jnp.arange(d) >= p).astype(dtype))

    @property
    def param_props(self) -> ParamsLinearAttentionSSM:
        """What is trainable, and how it is constrained, as :meth:`initialize` returns it.

        Example:
            >>> import ssmlin
            >>> props = ssmlin.LinearAttentionSSM("mamba2", 1, 1, 2).param_props
            >>> props.dynamics.keys.weights.trainable, props.initial.mean.trainable
            (True, False)
        """
        free, fixed = ParameterProperties(), ParameterProperties(trainable=False)
        positive = ParameterProperties(constrainer=tfb.Softplus())
        projection = ParamsProjection(free, free)
        dynamics: dict[str, Any] = dict.fromkeys(("keys", "queries", "values", "process_noise"))
        if self.mechanism.writes_values:
            dynamics |= dict.fromkeys(("keys", "queries", "values"), projection)
        else:
            # Keys that are the inputs themselves, with or without an intercept, stay so.
            inputs = self.key_dim in (self.input_dim, self.input_dim + 1)
            dynamics["keys"] = ParamsProjection(fixed, fixed) if inputs else projection
        gates: dict[str, Any] = dict.fromkeys(self._key_gates, projection)
        for name, (low, high) in self._gate_ranges.items():
            declared = self.mechanism.gates[name]
            value = ParameterProperties(
                trainable=declared.trainable, constrainer=tfb.Sigmoid(low=low, high=high)
            )
            gates[name] = ParamsGate(value, free if self._is_driven(declared) else None)
        if self.process_noise != "none":
            dynamics["process_noise"] = positive
        rows = {
            "identity": fixed,
            "diagonal": positive,
            "full": ParameterProperties(constrainer=RealToPSDBijector()),
        }
        return ParamsLinearAttentionSSM(
            initial=ParamsAttentionInitial(mean=fixed, variances=positive),
            dynamics=ParamsAttentionDynamics(**dynamics, gates=self._ordered(gates)),
            emissions=ParamsAttentionEmissions(
                input_weights=free if self._has_weights else None,
                bias=free if self._has_bias else None,
                noise=positive if self.row_cov == "identity" else fixed,
                row_cov=fixed if self.integrate_row_cov else rows[self.row_cov],
                coefficients=(
                    ParamsCoefficients(fixed, fixed, positive)
                    if self.integrate_input_weights
                    else None
                ),
            ),
        )

    def _regression(
        self, emissions: Array | None, inputs: Array | None
    ) -> tuple[Float[Array, "m p"], Float[Array, " m"], Float[Array, "m m"]]:
        """Ridge regression of emissions on inputs: D, d and the residual covariance."""
        m, p = self.emission_dim, self.input_dim
        if emissions is None or inputs is None:
            return jnp.zeros((m, p)), jnp.zeros(m), jnp.eye(m) * self.prior.series_variance
        y = emissions.reshape(-1, m)
        u = inputs.reshape(len(y), p)
        design = u if self.has_input_weights else jnp.zeros((len(u), 0), y.dtype)
        if self.has_emissions_bias:
            design = jnp.concatenate([design, jnp.ones((len(u), 1), y.dtype)], axis=1)
        k = design.shape[1]
        seen = jnp.isfinite(y).astype(y.dtype)

        def one(target: Array, weight: Array) -> tuple[Array, Array]:
            x = design * weight[:, None]
            target = jnp.where(weight > 0, target, 0.0)
            ridge = 1e-2 * jnp.eye(k, dtype=y.dtype)
            coefficients = jnp.linalg.solve(x.T @ x + ridge, x.T @ target)
            return coefficients, (target - x @ coefficients) * weight

        coefficients, residuals = jax.vmap(one, in_axes=1)(y, seen)
        pairs = jnp.einsum("ti,tj->ij", seen, seen)
        cov = residuals @ residuals.T / jnp.maximum(pairs - k, 1.0)
        floor = 1e-3 * self.prior.noise_floor * self.prior.series_variance
        skip = coefficients[:, :p] if self.has_input_weights else jnp.zeros((m, p), y.dtype)
        bias = coefficients[:, -1] if self.has_emissions_bias else jnp.zeros(m, y.dtype)
        # As many coefficients as values leave no residuals, whose variance is not known.
        unknown = jnp.where(seen.sum(axis=0) > k, 0.0, self.prior.series_variance)
        cov = cov + jnp.diag(unknown).astype(y.dtype)
        # Pairwise deletion can leave an indefinite matrix, and short series a singular one.
        values, vectors = jnp.linalg.eigh(cov)
        return skip, bias, (vectors * jnp.maximum(values, floor)) @ vectors.T

    def _regression_over_gaps(
        self, emissions: Array | None, inputs: Array | None
    ) -> tuple[Array, Array, Array] | None:
        """The regression where lags are missing, which are integrated out; None where none are."""
        if emissions is None or inputs is None or not self.has_input_weights:
            return None
        if not self._lacks_lags(inputs):
            return None
        if not _checks.is_concrete(emissions):
            return None
        y = lagged_values(emissions, inputs, self.num_lags)
        y = y.reshape(-1, *y.shape[-2:])
        if y.shape[1] <= self.num_lags or np.isnan(y).all(axis=(0, 1)).any():
            return None  # nothing to regress
        u = np.asarray(inputs, float).reshape(*y.shape[:2], self.input_dim)
        found = estimate_autoregression(
            y, u[..., self._num_lagged :], self.num_lags, self.has_emissions_bias
        )
        floor = 1e-3 * self.prior.noise_floor * self.prior.series_variance
        values, vectors = np.linalg.eigh(found.covariance)
        cov = (vectors * np.maximum(values, floor)) @ vectors.T
        weights, bias, rows = (jnp.asarray(x, emissions.dtype) for x in (*found[:2], cov))
        return weights, bias, rows

    def prior_distributions(self, params: ParamsLinearAttentionSSM) -> dict[str, tfd.Distribution]:
        """The prior laws of the constrained parameters by path, see :class:`ShrinkagePrior`.

        A Σ that is integrated out is not among them.
        """
        dtype = params.initial.mean.dtype
        centre = ParamsProjection(jnp.zeros((), dtype), jnp.zeros((), dtype))
        if not self.mechanism.writes_values:
            centre = self._identity_keys(dtype)
        laws = self.prior.distributions(
            params, centre, self.mechanism, learns_row_cov=self.row_cov != "identity"
        )
        if self.integrate_row_cov:
            del laws["emissions.row_cov"]
        return laws

    def log_prior(self, params: ParamsLinearAttentionSSM) -> Float[Array, ""]:
        """Log prior density of the constrained parameters, see :class:`ShrinkagePrior`."""
        return log_density(self.prior_distributions(params), params, self._gate_ranges)

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
            ValueError: parameters of another model, or a mechanism that is not registered, see
                :func:`ssmlin.register_mechanism`.
        """
        # That module reads models, too, so it imports this one.
        from ssmlin.models.files import save

        save(path, self, params, props, notes)

    # ----------------------------------------------------------------- the state space model

    @property
    def _num_lagged(self) -> int:
        """How many of the inputs are lags; they come first."""
        return self.num_lags * self.emission_dim

    def _lacks_lags(self, inputs: Array) -> bool:
        """Whether lags are known to be missing; under a trace nothing is known."""
        if self.num_lags == 0 or not _checks.is_concrete(inputs):
            return False
        # Of NumPy before it is cut: inside a trace a part of a known array is not known.
        return bool(np.isnan(np.asarray(inputs)[..., : self._num_lagged]).any())

    def _check_inputs(
        self, inputs: Any, lead: tuple[int, ...], dtype: Any, *, missing_lags: bool = False
    ) -> Array:
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
        if self._lacks_lags(u):
            if not missing_lags:
                gaps = np.isnan(np.asarray(u)[..., : self._num_lagged]).any(axis=-1)
                step = int(np.argwhere(gaps)[0][-1]) + 1
                raise ValueError(
                    "inputs: expected lags that are known, got a missing one at step "
                    f"{step}; `particle_filter`, `forecast` and `fit` integrate it out, and "
                    "`impute` draws what is missing"
                )
            outside: Any = np.asarray(u)[..., self._num_lagged :]
            _checks.finite("inputs", outside)
            return u
        return _checks.finite("inputs", u)

    def compute_inputs(
        self,
        emissions: Float[Array, "T m"],
        prev_emissions: Float[Array, "num_lags m"] | None = None,
        *,
        exogenous: Float[Array, "T k"] | None = None,
    ) -> Float[Array, "T p"]:
        """Inputs of a model with lags: lagged emissions, then what is exogenous.

        The lags of a missing emission are missing (NaN), too. `initialize`, `fit`, `forecast`,
        `particle_filter` and `impute` take them; what else is given them says so.

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
            needed = self.input_dim - self.num_lags * self.emission_dim
            got = None if exogenous is None else tuple(np.shape(exogenous))
            raise ValueError(f"exogenous: expected shape {(steps, needed)}, got {got}")
        return jnp.concatenate(parts, axis=-1) if parts else jnp.zeros((steps, 0))

    def gate_values(
        self, params: ParamsLinearAttentionSSM, inputs: Float[Array, "T p"]
    ) -> dict[str, Float[Array, "T ..."]]:
        """The gates α_t, β_t, ... of every step, by name, as the inputs set them."""
        return {
            name: gate(params.dynamics.gates[name], inputs, *bounds)
            for name, bounds in self._gate_ranges.items()
        }

    def to_lgssm(
        self,
        params: ParamsLinearAttentionSSM,
        inputs: Float[Array, "T p"] | None = None,
        num_timesteps: int | None = None,
    ) -> MatrixLGSSM:
        """The matrix-state model that these parameters and inputs give.

        Args:
            params: constrained parameters.
            inputs: u, (T, p).
            num_timesteps: T, where there are no inputs to tell it.

        Returns:
            The time-varying model; ``to_dynamax()`` expands it.

        Raises:
            ValueError: inputs of the wrong shape or not finite.
            TypeError: inputs that are not floating point arrays.
        """
        dtype = params.initial.mean.dtype
        if inputs is None and num_timesteps is None:
            raise ValueError("inputs: expected an array, or num_timesteps where there are none")
        steps = len(inputs) if inputs is not None else int(num_timesteps or 0)
        u = self._check_inputs(inputs, (steps,), dtype).astype(dtype)
        dynamics, emissions = params.dynamics, params.emissions

        def direction(projection: ParamsProjection) -> Array:
            x = project(projection, u)
            return unit(x) if self.normalization == "unit" else x

        tokens: dict[str, Any] = {"keys": direction(dynamics.keys)}
        if dynamics.queries is not None:
            tokens["queries"] = direction(dynamics.queries)
        if dynamics.values is not None:
            tokens["values"] = project(dynamics.values, u)
        for name in self._key_gates:
            tokens[name] = project(dynamics.gates[name], u)
        tokens |= self.gate_values(params, u)

        noise: dict[str, Any] = {}
        q: Any = dynamics.process_noise
        if self.process_noise == "isotropic":
            noise["process_noise"] = q
        elif self.process_noise == "diagonal":
            noise["process_noise"] = q[None, :]
        elif self.process_noise == "write":
            noise["write_noise"] = q
        bias = jnp.zeros((steps, self.emission_dim), dtype)
        if emissions.input_weights is not None:
            bias = bias + u @ emissions.input_weights.T
        if emissions.bias is not None:
            bias = bias + emissions.bias
        lgssm = matrix_lgssm(
            self.mechanism,
            **tokens,
            **noise,
            emission_noise=emissions.noise,
            initial_mean=params.initial.mean,
            initial_cov=jnp.diag(params.initial.variances),
            row_cov=emissions.row_cov,
            emission_bias=bias,
        )
        if self.process_noise == "stationary":
            stationary = (1 - lgssm.transition.diag**2) * q
            lgssm = replace(lgssm, process_noise=replace(lgssm.process_noise, diag=stationary))
        if (law := emissions.coefficients) is not None:
            readout = self._regressors(u) @ law.basis.T
            lgssm = lgssm.append_columns(readout, law.variance, law.noise)
        return lgssm

    def _one_step(self, params: ParamsLinearAttentionSSM, inputs: Any) -> MatrixLGSSM:
        """The model of one step."""
        one = None if inputs is None else jnp.asarray(inputs)[None]
        return self.to_lgssm(params, one, 1)

    def _state_law(self, mean: Array, rows: Array, columns: Array) -> tfd.Distribution:
        """MN(mean, rows, columns) as a distribution over matrices."""
        flat = tfd.MultivariateNormalFullCovariance(mean.reshape(-1), jnp.kron(rows, columns))
        return tfd.TransformedDistribution(flat, tfb.Reshape(mean.shape))

    def initial_distribution(
        self, params: ParamsLinearAttentionSSM, inputs: Float[Array, " p"] | None = None
    ) -> tfd.Distribution:
        """Law of S_1, the state at the first emission: that of S_0 after the first transition."""
        lgssm = self._one_step(params, inputs)
        a, q = lgssm.transition.to_dense()[0], lgssm.process_noise.to_dense()[0]
        mean = lgssm.initial_mean @ a + lgssm.drift.to_dense()[0]
        return self._state_law(mean, lgssm.row_cov, a.T @ lgssm.initial_cov @ a + q)

    def transition_distribution(
        self,
        params: ParamsLinearAttentionSSM,
        state: Float[Array, "m d"],
        inputs: Float[Array, " p"] | None = None,
    ) -> tfd.Distribution:
        """Law of S_t given S_{t-1} and u_t; has a density only where Q_t is positive definite."""
        lgssm = self._one_step(params, inputs)
        mean = lgssm.transition.apply(state[None])[0] + lgssm.drift.to_dense()[0]
        return self._state_law(mean, lgssm.row_cov, lgssm.process_noise.to_dense()[0])

    def emission_distribution(
        self,
        params: ParamsLinearAttentionSSM,
        state: Float[Array, "m d"],
        inputs: Float[Array, " p"] | None = None,
    ) -> tfd.Distribution:
        """Law of y_t given S_t and u_t."""
        lgssm = self._one_step(params, inputs)
        mean = state @ lgssm.readout[0] + lgssm.emission_bias[0]
        return tfd.MultivariateNormalFullCovariance(mean, lgssm.emission_noise[0] * lgssm.row_cov)

    def sample(
        self,
        params: ParamsLinearAttentionSSM,
        key: Array,
        num_timesteps: int,
        inputs: Float[Array, "T p"] | None = None,
    ) -> tuple[Float[Array, "T m d"], Float[Array, "T m"]]:
        """Draw states and emissions, also where the noise is singular.

        A model with lags feeds its emissions back, from zeros before the first, if `inputs` holds
        only what is exogenous, (T, p − num_lags·m), or is None with nothing exogenous. Inputs of
        full width are taken as they are. Where Σ is integrated out it is drawn from its prior.

        Args:
            params: constrained parameters.
            key: a PRNG key.
            num_timesteps: T.
            inputs: see above.

        Returns:
            States (T, m, d) and emissions (T, m).

        Raises:
            ValueError: inputs of the wrong shape.
            TypeError: inputs that are not floating point arrays.
        """
        _checks.positive_int("num_timesteps", num_timesteps)
        given = inputs is not None and np.shape(inputs)[-1] == self.input_dim
        if self.integrate_row_cov:
            row_key, key = jax.random.split(key)
            row_cov = self.prior.row_cov(params.emissions).sample(row_key)
            params = params._replace(emissions=params.emissions._replace(row_cov=row_cov))
        if self.num_lags == 0 or given:
            lgssm = self.to_lgssm(params, inputs, num_timesteps)
            _checks.shaped("inputs", lgssm.readout, ("T", "d"), {"T": num_timesteps})
            states, emissions = matrix_lgssm_sample(key, lgssm)
            return states[0], emissions[0]
        start_key, path_key = jax.random.split(key)
        rows = self._row_matrices(params.emissions.row_cov)
        law = self.initial_law(params)
        start = draw_states(start_key, law.mean, law.cov, rows, 1)
        lags = jnp.zeros((1, self.num_lags, self.emission_dim), start.dtype)
        exogenous = self._exogenous(inputs, num_timesteps, start.dtype)
        states, emissions = simulate(self, params, path_key, start, rows, lags, exogenous)
        return states[0], emissions[0]

    # ----------------------------------------------------------------- inference

    def log_predictive(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"] | None = None,
        **options: Any,
    ) -> Float[Array, " T"]:
        """Log p(y_t | y_{1:t-1}, u_{1:t}) of every step; 0 where nothing is observed."""
        return self.filter(params, emissions, inputs, store="loglik", **options).log_predictive

    def initial_law(self, params: ParamsLinearAttentionSSM) -> StateLaw:
        """The law of S_0, with M_0 and P_0, and the prior of a Σ that is integrated out."""
        mean, cov = params.initial.mean, jnp.diag(params.initial.variances)
        if (law := params.emissions.coefficients) is not None:
            k = len(law.basis)
            mean = jnp.pad(mean, ((0, 0), (0, k)))
            cov = jax.scipy.linalg.block_diag(cov, law.variance * jnp.eye(k, dtype=cov.dtype))
        row_cov = self.prior.row_cov(params.emissions) if self.integrate_row_cov else None
        return StateLaw(mean, cov, row_cov)

    def filter_window(
        self,
        params: ParamsLinearAttentionSSM,
        law: StateLaw,
        emissions: Float[Array, "W m"],
        inputs: Float[Array, "W p"] | None = None,
        **options: Any,
    ) -> tuple[Float[Array, " W"], StateLaw]:
        """Filter consecutive steps from a law of what came before them.

        However a sequence is cut into windows, each starting from the law after the one before,
        the densities are those of :meth:`log_predictive`.

        Args:
            params: constrained parameters.
            law: of the state before the first step, see :meth:`initial_law`.
            emissions: y, (W, m); NaN means missing.
            inputs: u, (W, p).
            **options: as in :func:`ssmlin.matrix_lgssm_filter`.

        Returns:
            The log predictive densities of the steps, and the law after them. Its covariance has
            an axis of rows, as that of `law` may have, if ``missing="entries"`` and m > 1.

        Raises:
            ValueError: an argument of the wrong shape or value, or a law without that of Σ where Σ
                is integrated out.

        Example:
            >>> import jax.numpy as jnp, ssmlin
            >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 2, integrate_row_cov=True)
            >>> params, _ = model.initialize()
            >>> y = jnp.sin(jnp.arange(6.0))[:, None]
            >>> first, law = model.filter_window(params, model.initial_law(params), y[:4])
            >>> second, law = model.filter_window(params, law, y[4:])
            >>> parts = jnp.concatenate([first, second])
            >>> bool(jnp.allclose(parts, model.log_predictive(params, y), atol=1e-5))
            True
        """
        options |= {"law": law, "store": "last"}
        last, row_cov = self._filter_from(params, emissions, inputs, options)
        return last.log_predictive, StateLaw(
            last.filtered_means[0], last.filtered_covariances[0], row_cov
        )

    def marginal_log_prob(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"] | None = None,
        **options: Any,
    ) -> Float[Array, ""]:
        """Log p(y_{1:T} | u_{1:T}), the states integrated out by the filter."""
        return self.log_predictive(params, emissions, inputs, **options).sum()

    def filter(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"] | None = None,
        **options: Any,
    ) -> PosteriorMatrixLGSSM:
        """Filtering distributions; options as in :func:`ssmlin.matrix_lgssm_filter`.

        Another option is `law`, what the state is before the first step in place of
        :meth:`initial_law`.
        """
        return self._filter_from(params, emissions, inputs, options)[0]

    def _filter_from(
        self, params: ParamsLinearAttentionSSM, emissions: Array, inputs: Any, options: Any
    ) -> tuple[Any, RowCovLaw | None]:
        """Filter from the law among the options, if any; and the law of Σ after it."""
        lgssm = self.to_lgssm(params, inputs, len(emissions))
        if (law := options.get("law")) is not None:
            law = StateLaw(*law)
            lgssm = replace(lgssm, initial_mean=law.mean)
            # "reset" starts every step from the model's own P_0.
            if self.covariance != "reset":
                lgssm = replace(lgssm, initial_cov=law.cov)
            if law.cov.ndim == 3:
                options = options | {"missing": "entries"}
        kept = {name: x for name, x in options.items() if name != "law"}
        posterior = self._filter(lgssm, emissions, **kept)
        return self._with_row_cov(params, posterior, emissions, options)

    def _filter(self, lgssm: MatrixLGSSM, emissions: Array, **options: Any) -> PosteriorMatrixLGSSM:
        """The filter that the model asks for."""
        if self.covariance == "full":
            return matrix_lgssm_filter(lgssm, emissions, **options)
        known = {"store", "missing"}
        if options.keys() - known or options.get("missing") == "entries":
            self._only_full("the options of the exact filter")
        kept: Any = options.get("store", "filtered")
        kept = "filtered" if kept in ("all", "means") else kept
        kind: Any = self.covariance
        return matrix_lgssm_approximate_filter(lgssm, emissions, kind, store=kept)

    def _only_full(self, what: str) -> None:
        """Raise ValueError unless the covariance is exact."""
        if self.covariance != "full":
            raise ValueError(f"covariance: expected 'full' for {what}, got {self.covariance!r}")

    def smoother(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"] | None = None,
        **options: Any,
    ) -> PosteriorMatrixLGSSM:
        """Smoothing distributions; options as in :func:`ssmlin.matrix_lgssm_smoother`."""
        lgssm = self.to_lgssm(params, inputs, len(emissions))
        self._only_full("smoothing")
        posterior = matrix_lgssm_smoother(lgssm, emissions, **options)
        return self._with_row_cov(params, posterior, emissions, options)[0]

    def row_cov_posterior(
        self,
        params: ParamsLinearAttentionSSM,
        posterior: PosteriorMatrixLGSSM,
        emissions: Array,
        options: dict[str, Any],
        store: Literal["last", "all"] = "last",
    ) -> PosteriorRowCov:
        """The law of Σ given the emissions, after a filter with these options.

        Args:
            params: constrained parameters.
            posterior: of that filter, at least its predictions of the emissions.
            emissions: y, (T, m).
            options: the filter's law, mask and length, if any.
            store: "all" for the law before every step, too.

        Returns:
            See :func:`ssmlin.integrate_row_cov`.
        """
        law = options.get("law")
        prior = self.prior.row_cov(params.emissions) if law is None else StateLaw(*law).row_cov
        if prior is None:
            raise ValueError(
                "law: expected one with the law of Σ, as initial_law and filter_window give it, "
                "got None for it"
            )
        return integrate_row_cov(
            posterior,
            emissions,
            prior,
            discount=self.row_cov_discount,
            mask=options.get("mask"),
            length=options.get("length"),
            store=store,
        )

    def _with_row_cov(
        self,
        params: ParamsLinearAttentionSSM,
        posterior: PosteriorMatrixLGSSM,
        emissions: Array,
        options: dict[str, Any],
    ) -> tuple[PosteriorMatrixLGSSM, RowCovLaw | None]:
        """The posterior with Σ integrated out, if it is to be, and the law of Σ."""
        if not self.integrate_row_cov:
            return posterior, None
        integrated = self.row_cov_posterior(params, posterior, emissions, options)
        posterior = posterior._replace(
            marginal_loglik=integrated.marginal_loglik,
            log_predictive=integrated.log_predictive,
            row_cov=self._row_matrices(integrated.row_cov.mean()),
        )
        return posterior, integrated.row_cov

    def _row_matrices(self, row_cov: Array) -> Float[Array, "... m m"]:
        """Σ, or many of them, as matrices."""
        if self.row_cov == "full":
            return row_cov
        return row_cov[..., None] * jnp.eye(self.emission_dim, dtype=row_cov.dtype)

    def posterior_sample(
        self,
        key: Array,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"] | None = None,
        num_samples: int | None = None,
        **options: Any,
    ) -> Float[Array, "num_samples T m d"]:
        """State paths given the emissions; one path (T, m, d) if `num_samples` is None."""
        self._only_full("sampling of states")
        lgssm = self.to_lgssm(params, inputs, len(emissions))
        n = 1 if num_samples is None else _checks.positive_int("num_samples", num_samples)
        if self.integrate_row_cov:
            row_key, key = jax.random.split(key)
            posterior = matrix_lgssm_filter(lgssm, emissions, store="loglik", **options)
            law = self.row_cov_posterior(params, posterior, emissions, options).row_cov
            rows = self._row_matrices(law.sample(row_key, (n,)))

            # Σ alone varies, so all paths still share one covariance recursion.
            def path(key: Array, row_cov: Array) -> Array:
                given = replace(lgssm, row_cov=row_cov)
                return matrix_lgssm_posterior_sample(key, given, emissions, **options)[0]

            draws = jax.vmap(path)(jax.random.split(key, n), rows)
        else:
            draws = matrix_lgssm_posterior_sample(key, lgssm, emissions, n, **options)
        return draws[0] if num_samples is None else draws

    def given_missing(self, emissions: Float[Array, "... m"] | None = None) -> "_Seen":
        """The model for these emissions, inside `jit` too: what is missing is looked at now.

        Without emissions, for any that it can be given. Emissions that are traced cannot be looked
        at; a step of them that is partly missing counts as wholly missing.

        Raises:
            ValueError: partly missing emissions, and Σ not diagonal or a covariance not "full".
        """
        can = self.emission_dim > 1 and self.row_cov != "full" and self.covariance == "full"
        if emissions is None:
            return _Seen(self, "entries" if can else "rows")
        if not _checks.is_concrete(emissions):
            return _Seen(self, "rows")
        seen = ~np.isnan(np.asarray(emissions))
        partly = bool(np.any(seen.any(-1) != seen.all(-1)))
        if partly and not can:
            raise ValueError(
                "emissions: expected none that are partly missing, which need a covariance for "
                f"each row, for row_cov={self.row_cov!r} and covariance={self.covariance!r}; got "
                "some: use row_cov='diagonal' and covariance='full', or make them wholly missing"
            )
        return _Seen(self, "entries" if partly else "rows")

    # ----------------------------------------------------------------- forecasting

    def predict_one_step(
        self,
        key: Array,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"] | None = None,
        **options: Any,
    ) -> tuple[Float[Array, "T m"], Float[Array, " T"], Float[Array, "T m"], Float[Array, "T m m"]]:
        """Predict every emission from those before it.

        Args:
            key: a PRNG key.
            params: constrained parameters.
            emissions: y, (T, m); NaN means missing.
            inputs: u, (T, p).
            **options: as in :func:`ssmlin.matrix_lgssm_filter`.

        Returns:
            A draw from the predictive of every step, the log densities of the emissions, and the
            predictives' means and covariances.
        """
        posterior = self.filter(params, emissions, inputs, store="loglik", **options)
        rows = drawn = posterior.row_cov
        if self.integrate_row_cov:
            # A Student-t draw is a Gaussian one with Σ drawn first.
            key, row_key = jax.random.split(key)
            integrated = self.row_cov_posterior(params, posterior, emissions, options, "all")
            laws: Any = integrated.predictive_row_cov
            rows = self._row_matrices(laws.mean())
            drawn = self._row_matrices(laws.sample(row_key))
        covariances = self._emission_covariances(posterior.emission_scales, rows)
        given_rows = self._emission_covariances(posterior.emission_scales, drawn)
        normal = jax.random.normal(key, posterior.emission_means.shape, covariances.dtype)
        noise = jnp.einsum("tij,tj->ti", symmetric_root(given_rows), normal)
        return (
            posterior.emission_means + noise,
            posterior.log_predictive,
            posterior.emission_means,
            covariances,
        )

    @staticmethod
    def _emission_covariances(scales: Array, rows: Array) -> Float[Array, "T m m"]:
        """Of every step: a scale for all rows, or for each where Σ is diagonal."""
        return (scales[:, None, None] if scales.ndim == 1 else scales[:, :, None]) * rows

    def forecast(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"] | None = None,
        horizon: int = 1,
        *,
        future_inputs: Float[Array, "horizon k"] | None = None,
        key: Array | None = None,
        num_samples: int = 1000,
        levels: Sequence[float] = (0.5, 0.8, 0.95),
        mask: Bool[Array, " T"] | None = None,
    ) -> Forecast:
        r"""Predict $y_{T+1}, \dots, y_{T+h}$.

        A model without lags, or future inputs of full width p: the predictive is exact, Gaussian
        or, where Σ is integrated out, Student-t, and paths are sampled only if a key is given. A
        model with lags feeds its own emissions back: then means, covariances and intervals are
        those of sampled paths, and `future_inputs` holds what is exogenous, (horizon,
        p − num_lags·m). Lags that are missing are drawn, see :meth:`particle_filter`; so a gap at
        the end is a longer forecast. Under a trace any may be missing, and all are treated so.

        Args:
            params: constrained parameters.
            emissions: y, (T, m); NaN means missing.
            inputs: u, (T, p).
            horizon: h, the number of steps.
            future_inputs: inputs of the steps to come, see above.
            key: a PRNG key; default ``jax.random.key(0)`` where paths are needed.
            num_samples: how many paths.
            levels: probabilities of the central intervals.
            mask: (T,), False for steps whose emissions serve as lags alone.

        Returns:
            Means, covariances, intervals and paths.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.
        """
        _checks.positive_int("horizon", horizon)
        _checks.positive_int("num_samples", num_samples)
        if _checks.is_concrete(levels):
            known = np.asarray(levels)
            if known.ndim != 1 or not ((known > 0) & (known < 1)).all():
                raise ValueError(f"levels: expected numbers in (0, 1), got {levels}")
        share = jnp.asarray(levels, params.initial.mean.dtype)
        y = _checks.float_array("emissions", emissions)
        _checks.shaped("emissions", y, ("T", "m"), {"m": self.emission_dim})
        feeds_back = self.num_lags > 0 and (
            future_inputs is None or np.shape(future_inputs)[-1] != self.input_dim
        )
        u = self._check_inputs(inputs, y.shape[:1], y.dtype, missing_lags=feeds_back)
        path_key, start_key = jax.random.split(jax.random.key(0) if key is None else key)
        exogenous = self._exogenous(future_inputs, horizon, y.dtype) if feeds_back else None
        if feeds_back and self._may_lack_lags(y, u):
            assert exogenous is not None
            self._only_full("missing lags")
            # The other keys are those of a forecast without gaps, which then has the same draws.
            particle_key, index_key = (jax.random.fold_in(start_key, i) for i in (1001, 1002))
            row_key = start_key
            if self.integrate_row_cov:
                row_key, start_key = jax.random.split(start_key)
            n = min(num_samples, _MAX_PARTICLES)
            drawn: Any = run_particles(self, params, particle_key, y, u, n, "last", mask)
            mean, cov, rows, lags = self.draw_laws(index_key, row_key, drawn, params, num_samples)
            start = draw_states(start_key, mean, cov, rows, num_samples)
            _, fed_back = simulate(self, params, path_key, start, rows, lags, exogenous)
            return sampled_forecast(fed_back, share)
        hidden = y if mask is None else jnp.where(mask[:, None], y, jnp.nan)
        if feeds_back or key is not None:
            last: Any = self.filter(params, hidden, u, store="last")
            rows = last.row_cov
            if self.integrate_row_cov:
                row_key, start_key = jax.random.split(start_key)
                law = self.row_cov_posterior(params, last, hidden, {}).row_cov
                law = law.discount(self.row_cov_discount)
                rows = self._row_matrices(law.sample(row_key, (num_samples,)))
            start = draw_states(
                start_key, last.filtered_means[0], last.filtered_covariances[0], rows, num_samples
            )
        if exogenous is not None:
            padded = jnp.concatenate([jnp.zeros((self.num_lags, self.emission_dim), y.dtype), y])
            lags = jnp.broadcast_to(
                padded[-self.num_lags :][::-1], (num_samples, self.num_lags, self.emission_dim)
            )
            _, fed_back = simulate(self, params, path_key, start, rows, lags, exogenous)
            return sampled_forecast(fed_back, share)

        ahead = self._check_inputs(future_inputs, (horizon,), y.dtype)
        nothing = jnp.full((horizon, self.emission_dim), jnp.nan, y.dtype)
        extended = jnp.concatenate([hidden, nothing])
        posterior = self.filter(params, extended, jnp.concatenate([u, ahead]), store="loglik")
        row_cov = posterior.row_cov
        student_df: Array | None = None
        if self.integrate_row_cov:
            law = self.row_cov_posterior(params, posterior, extended, {}).row_cov
            law = law.discount(self.row_cov_discount)
            row_cov, student_df = self._row_matrices(law.mean()), law.student_df
        covariances = self._emission_covariances(posterior.emission_scales[-horizon:], row_cov)
        paths: Array | None = None
        if key is not None:
            no_lags = jnp.zeros((num_samples, 0, self.emission_dim), y.dtype)
            _, paths = simulate(self, params, path_key, start, rows, no_lags, ahead)
        means = posterior.emission_means[-horizon:]
        return exact_forecast(means, covariances, share, paths, student_df)

    def _may_lack_lags(self, emissions: Array, inputs: Array) -> bool:
        """Whether a lag is missing, of these steps or of the next one; under a trace any may be."""
        if not (_checks.is_concrete(emissions) and _checks.is_concrete(inputs)):
            return self.covariance == "full"  # approximations have no draws
        ends = np.isnan(np.asarray(emissions)[-self.num_lags :]).any()
        return bool(ends) or self._lacks_lags(inputs)

    def draw_laws(
        self,
        index_key: Array,
        row_key: Array,
        particles: Particles,
        params: ParamsLinearAttentionSSM,
        num_samples: int,
    ) -> tuple[Array, Array, Float[Array, "n m m"], Float[Array, "n num_lags m"]]:
        """Draw what paths go on from: the law of the state, Σ, and lags, for each path.

        Args:
            index_key: a PRNG key for the choice of draws.
            row_key: a PRNG key for Σ, where it is integrated out.
            particles: of :meth:`particle_filter`.
            params: constrained parameters.
            num_samples: n.

        Returns:
            Means (n, m, d) and covariances (n, 1, d, d) of states, Σ, and the latest lags first.
        """
        chosen = particles.take(resampled_index(index_key, particles.log_weights, num_samples))
        if chosen.row_cov is None:
            rows = self._row_matrices(params.emissions.row_cov)
            rows = jnp.broadcast_to(rows, (num_samples, *rows.shape))
        else:
            law = chosen.row_cov.discount(self.row_cov_discount)
            rows = self._row_matrices(law.sample(row_key))
        return chosen.means, chosen.covariances[:, None], rows, chosen.lags

    def particle_filter(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"],
        key: Array | None = None,
        num_particles: int = 1000,
        *,
        mask: Bool[Array, " T"] | None = None,
    ) -> ParticlePosterior:
        """Filter where lags are missing: they are drawn, and each draw has an exact filter.

        Where none is missing, this is the filter. See :mod:`ssmlin.models.missing_lags`.

        Args:
            params: constrained parameters.
            emissions: y, (T, m); NaN means missing.
            inputs: u, (T, p), as :meth:`compute_inputs` gives them; lags may be missing.
            key: a PRNG key; default ``jax.random.key(0)``.
            num_particles: N, the number of draws.
            mask: (T,), False for steps whose emissions serve as lags alone.

        Returns:
            For every step the mixture that predicts it, the likelihood, and the last draws.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.

        Example:
            >>> import jax.numpy as jnp, ssmlin
            >>> y = jnp.sin(jnp.arange(20.0)).at[5].set(jnp.nan)[:, None]
            >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
            >>> u = model.compute_inputs(y)
            >>> params, _ = model.initialize(emissions=y, inputs=u)
            >>> model.particle_filter(params, y, u, num_particles=50).emission_means.shape
            (20, 50, 1)
        """
        self._only_full("missing lags")
        y = _checks.float_array("emissions", emissions)
        _checks.shaped("emissions", y, ("T", "m"), {"m": self.emission_dim})
        u = self._check_inputs(inputs, y.shape[:1], y.dtype, missing_lags=True)
        _checks.positive_int("num_particles", num_particles)
        start_key = jax.random.key(0) if key is None else key
        return run_particles(self, params, start_key, y, u, num_particles, "all", mask)

    def impute(
        self,
        key: Array,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"] | Float[Array, "B T m"],
        inputs: Float[Array, "T p"] | Float[Array, "B T p"],
        num_samples: int = 1,
        *,
        num_particles: int = 200,
    ) -> tuple[Float[Array, "num_samples ..."], Float[Array, "num_samples ..."]]:
        """Draw the missing emissions that are lags of later steps, given all that was observed.

        With them the model is linear Gaussian, so whatever takes emissions and inputs takes these.
        What comes after the last observation stays missing.

        Args:
            key: a PRNG key.
            params: constrained parameters.
            emissions: y, one sequence or a batch; NaN means missing.
            inputs: u, likewise, as :meth:`compute_inputs` gives them.
            num_samples: how many completed data sets, each from a particle filter of its own.
            num_particles: the draws of each filter.

        Returns:
            Completed emissions and inputs, with a leading axis for the samples.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.

        Example:
            >>> import jax, jax.numpy as jnp, ssmlin
            >>> y = jnp.sin(jnp.arange(20.0)).at[5].set(jnp.nan)[:, None]
            >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
            >>> u = model.compute_inputs(y)
            >>> params, _ = model.initialize(emissions=y, inputs=u)
            >>> ys, us = model.impute(jax.random.key(0), params, y, u, 3)
            >>> ys.shape, bool(jnp.isnan(us).any())
            ((3, 20, 1), False)
        """
        self._only_full("missing lags")
        _checks.positive_int("num_samples", num_samples)
        _checks.positive_int("num_particles", num_particles)
        y, u = self._check_batch(emissions, inputs, missing_lags=True)
        ys, us = impute(self, params, key, y, u, num_samples, num_particles)
        return (ys[:, 0], us[:, 0]) if np.ndim(emissions) == 2 else (ys, us)

    def _exogenous(self, inputs: Any, steps: int, dtype: Any) -> Float[Array, "T k"]:
        """Check the exogenous part of the inputs."""
        width = self.input_dim - self.num_lags * self.emission_dim
        if inputs is None and width == 0:
            return jnp.zeros((steps, 0), dtype)
        if inputs is None or np.shape(inputs) != (steps, width):
            got = None if inputs is None else tuple(np.shape(inputs))
            raise ValueError(
                f"inputs: expected the exogenous inputs of shape {(steps, width)} or all inputs "
                f"of shape {(steps, self.input_dim)}, got {got}"
            )
        return _checks.finite("inputs", _checks.float_array("inputs", inputs))

    # ----------------------------------------------------------------- learning

    def fit(
        self,
        emissions: Float[Array, "T m"] | Float[Array, "B T m"],
        inputs: Float[Array, "T p"] | Float[Array, "B T p"] | None = None,
        key: Array | None = None,
        *,
        validation_fraction: float = 0.2,
        num_epochs: int = 500,
        patience: int = 50,
        optimizer: optax.GradientTransformation | None = None,
        window_size: int | None = None,
        num_restarts: int = 1,
        checkpoint_dir: str | Path | None = None,
        progress: bool = True,
    ) -> tuple[ParamsLinearAttentionSSM, FitHistory]:
        """Fit by the recommended recipe, for a model that should predict unseen steps.

        Start at the linear regression of the first part of every sequence and fit that part by
        L-BFGS, :func:`ssmlin.learning.lbfgs`, until it converges. Unless that overfits, the model
        is then fitted to all steps until it converges. If it overfits, that is if it predicts the
        last part clearly worse than parameters on the way, the fit to all steps ends after as many
        epochs as were best, see :func:`ssmlin.learning.fit_sgd`. So the last part is not used by
        what it judges, and no step is wasted. An epoch is one pass over the data.

        Where lags are missing they are integrated out by stochastic expectation maximisation: four
        completed data sets are drawn given the parameters, see :meth:`impute`, and fitted together,
        each with a quarter of the weight; three times, from the autoregression of the highest
        likelihood on. What the first part is completed by has not seen the last one.

        Args:
            emissions: one sequence or a batch; NaN means missing.
            inputs: the inputs, likewise.
            key: a PRNG key for the start and the draws.
            validation_fraction: the share of steps, at the end, to stop by; in (0, 1).
            num_epochs: each fit has at most so many epochs.
            patience: epochs to wait for a lower score, where the fit overfits.
            optimizer: any optax optimiser; default L-BFGS, or Adam with `window_size`. Others than
                ``ssmlin.learning.lbfgs()`` stop where the last part is predicted best.
            window_size: see :meth:`fit_sgd`.
            num_restarts: starts of the first fit, see :meth:`fit_sgd`; the second one starts like
                the best of them.
            checkpoint_dir: a directory to keep the states of both fits in, so that a call that was
                killed goes on.
            progress: show a progress bar.

        Returns:
            The fitted parameters, and the history of the first fit, which chose the epochs.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.

        Warns:
            RuntimeWarning: a fit that was still improving when it reached `num_epochs`.

        Example:
            >>> import jax.numpy as jnp, ssmlin
            >>> t = jnp.arange(40.0)[:, None]
            >>> y = jnp.sin(t) + 0.1 * jnp.cos(t**2)
            >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 2, num_lags=2)
            >>> params, history = model.fit(y, model.compute_inputs(y), progress=False)
            >>> history.converged
            True
        """
        return fitting.fit(
            self,
            emissions,
            inputs,
            key,
            validation_fraction=validation_fraction,
            num_epochs=num_epochs,
            patience=patience,
            optimizer=optimizer,
            window_size=window_size,
            num_restarts=num_restarts,
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )

    def fit_sgd(
        self,
        params: ParamsLinearAttentionSSM,
        props: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"] | Float[Array, "B T m"],
        inputs: Float[Array, "T p"] | Float[Array, "B T p"] | None = None,
        optimizer: optax.GradientTransformation | None = None,
        batch_size: int | None = None,
        num_epochs: int = 500,
        shuffle: bool = False,
        key: Array | None = None,
        *,
        validation_fraction: float = 0.2,
        patience: int | None = 50,
        window_size: int | None = None,
        num_restarts: int = 1,
        checkpoint_dir: str | Path | None = None,
        progress: bool = True,
        return_history: bool = False,
    ) -> tuple[ParamsLinearAttentionSSM, Float[Array, " num_epochs"] | FitHistory]:
        """Fit by gradient steps on the log posterior; see :func:`ssmlin.learning.fit_sgd`.

        The safe defaults: shrinkage priors (`prior` of the model), and early stopping on the last
        fifth of every sequence. Start from ``initialize(key, emissions=..., inputs=...)``, the
        linear regression. Sequences of unequal length are padded with NaN emissions and zero
        inputs at their end.

        Args:
            params: where to start.
            props: their properties.
            emissions: one sequence or a batch; NaN means missing.
            inputs: the inputs, likewise.
            optimizer: any optax optimiser; default Adam at 0.01 with clipped gradients.
            batch_size: sequences per step; default all.
            num_epochs: passes over all sequences, at most.
            shuffle: draw minibatches in random order.
            key: a PRNG key for `shuffle` and for further starts.
            validation_fraction: the share of steps, at the end, to stop by; 0 for none.
            patience: epochs to wait for a lower score; None for no early stopping.
            window_size: for long sequences, the steps a gradient goes back, at most; it starts from
                the filter's law at the end of the window before. None for whole sequences.
            num_restarts: how many starts are fitted together, the best of which is returned: the
                given one and others by `initialize`, what is not trainable as given.
            checkpoint_dir: a directory to keep the state in, so that a fit that was killed goes on.
            progress: show a progress bar.
            return_history: return a :class:`ssmlin.learning.FitHistory` in place of the losses.

        Returns:
            The fitted parameters and the training loss of every epoch run.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.
        """
        y, u = self._check_batch(emissions, inputs)
        params, history = fitting.fit_sgd(
            self,
            params,
            props,
            fitting.Completed(y, u, 1),
            optimizer=optimizer,
            batch_size=batch_size,
            num_epochs=num_epochs,
            shuffle=shuffle,
            key=key,
            validation_fraction=validation_fraction,
            patience=patience,
            window_size=window_size,
            num_restarts=num_restarts,
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )
        return params, history if return_history else history.losses

    def fit_em(
        self,
        params: ParamsLinearAttentionSSM,
        props: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"] | Float[Array, "B T m"],
        inputs: Float[Array, "T p"] | Float[Array, "B T p"] | None = None,
        num_iters: int = 50,
        verbose: bool = True,
        print_every: int = 1,
        *,
        gradient_steps: int = 5,
        use_prior: bool = True,
        checkpoint_dir: str | Path | None = None,
        progress: bool = True,
    ) -> tuple[ParamsLinearAttentionSSM, Float[Array, " num_iters"]]:
        """Fit by expectation maximisation; the log posterior never decreases.

        Closed forms for Σ, r, the noise scale, the law of S_0, D and d, and in each iteration a few
        quasi-Newton steps, by which projections and gates move. See :func:`ssmlin.learning.fit_em`.

        Args:
            params: where to start.
            props: their properties; what is not trainable stays.
            emissions: one sequence or a batch; NaN means missing.
            inputs: the inputs, likewise.
            num_iters: iterations.
            verbose: dynamax's name of `progress`; a bar is shown if both are true. Only without a
                bar and a `checkpoint_dir` does this work inside `jit` and `vmap`.
            print_every: iterations between updates of the bar.
            gradient_steps: quasi-Newton steps an iteration; 0 for the closed forms alone.
            use_prior: maximise the posterior; False for the likelihood.
            checkpoint_dir: a directory to keep the state in, so that a fit that was killed goes on.
            progress: show a progress bar.

        Returns:
            The parameters, and the log posterior (or likelihood) at the start of every iteration.

        Raises:
            ValueError: an argument of the wrong shape or range, no data, or a model with Σ or the
                input weights integrated out.
            TypeError: an argument that is not of the expected type.

        Example:
            >>> import jax.numpy as jnp, ssmlin
            >>> t = jnp.arange(30.0)[:, None]
            >>> y = jnp.sin(0.5 * t) + 0.1 * jnp.cos(t**2)
            >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 2, num_lags=2)
            >>> u = model.compute_inputs(y)
            >>> params, props = model.initialize(emissions=y, inputs=u)
            >>> params, log_probs = model.fit_em(params, props, y, u, 10, progress=False)
            >>> bool((jnp.diff(log_probs) > -1e-6).all())
            True
        """
        y, u = self._check_batch(emissions, inputs)
        return fit_em(
            self,
            params,
            props,
            y,
            u,
            num_iters,
            print_every=print_every,
            gradient_steps=gradient_steps,
            use_prior=use_prior,
            checkpoint_dir=checkpoint_dir,
            progress=progress and verbose,
        )

    def m_steps(self, params: ParamsLinearAttentionSSM) -> Sequence[Sequence[str]]:
        """Blocks of parameters, by path, that have closed-form M-steps.

        Raises:
            ValueError: a model that EM cannot fit.
        """
        self._only_full("fit_em")
        if self.integrate_row_cov:
            raise ValueError(
                "integrate_row_cov: expected False for fit_em, whose M-steps are those of the "
                "model given Σ; got True; fit_sgd fits this model"
            )
        if self.integrate_input_weights:
            raise ValueError(
                "integrate_input_weights: expected False for fit_em, which has no M-step for the "
                "law of what is integrated out; got True; fit_sgd fits this model"
            )
        return BLOCKS

    def m_step(
        self,
        params: ParamsLinearAttentionSSM,
        score: ParamsLinearAttentionSSM,
        names: Sequence[str],
        emissions: Float[Array, "B T m"],
        inputs: Float[Array, "B T p"] | None,
        *,
        use_prior: bool = True,
    ) -> ParamsLinearAttentionSSM:
        """Maximise the expected complete-data log posterior over `names`, given their score."""
        writes = math.prod(self._micro_steps)
        ranks = {"none": 0, "write": min(self.key_dim, writes)}
        # With Σ learned r has no prior.
        prior = self.prior if use_prior else None
        if "emissions.noise" in names and self.row_cov != "identity":
            prior = None
        noise_rank = ranks.get(self.process_noise, self.key_dim)
        inputs = self._check_inputs(inputs, emissions.shape[:-1], emissions.dtype)
        return m_step(params, score, names, emissions, inputs, noise_rank, prior)

    def _check_batch(
        self, emissions: Any, inputs: Any, *, missing_lags: bool = False
    ) -> tuple[Array, Array]:
        """One sequence or a batch of them as a batch, with its inputs."""
        y = _checks.float_array("emissions", emissions)
        if y.ndim not in (2, 3) or y.shape[-1] != self.emission_dim:
            raise ValueError(
                f"emissions: expected shape (T, {self.emission_dim}) or "
                f"(B, T, {self.emission_dim}), got {tuple(y.shape)}"
            )
        u = self._check_inputs(inputs, y.shape[:-1], y.dtype, missing_lags=missing_lags)
        return (y[None], u[None]) if y.ndim == 2 else (y, u)


@dataclass(frozen=True)
class _Seen:
    """The model for data whose pattern of what is missing was read before tracing."""

    model: LinearAttentionSSM
    missing: Literal["rows", "entries"]

    def log_prior(self, params: Any) -> Float[Array, ""]:
        """Log prior density of the parameters."""
        return self.model.log_prior(params)

    def prior_distributions(self, params: Any) -> dict[str, tfd.Distribution]:
        """The prior laws of the parameters by path."""
        return self.model.prior_distributions(params)

    def m_steps(self, params: Any) -> Sequence[Sequence[str]]:
        """Blocks of parameters with closed-form M-steps."""
        return self.model.m_steps(params)

    def m_step(self, *args: Any, **options: Any) -> Any:
        """Maximise the expected complete-data log posterior over one block."""
        return self.model.m_step(*args, **options)

    def log_predictive(self, params: Any, emissions: Array, inputs: Any) -> Float[Array, " T"]:
        """Log predictive densities of one sequence."""
        return self.model.log_predictive(params, emissions, inputs, missing=self.missing)

    def initial_law(self, params: Any) -> StateLaw:
        """Law of the state before the first step."""
        law = self.model.initial_law(params)
        if self.missing == "rows" or self.model.emission_dim == 1:
            return law
        # Each row will have a covariance of its own.
        return law._replace(cov=jnp.broadcast_to(law.cov, (*law.mean.shape, len(law.cov))))

    def filter_window(self, params: Any, law: Any, emissions: Array, inputs: Any) -> Any:
        """Log predictive densities of consecutive steps, and the law of the state after them."""
        return self.model.filter_window(params, law, emissions, inputs, missing=self.missing)

    def posterior_sample(self, key: Array, params: Any, emissions: Array, inputs: Any) -> Array:
        """One path of the states."""
        return self.model.posterior_sample(key, params, emissions, inputs, missing=self.missing)

    def predict_one_step(
        self, key: Array, params: Any, emissions: Array, inputs: Any
    ) -> tuple[Array, Array, Array, Array]:
        """Given the past of every step: a draw, its log density, the mean and the covariance."""
        return self.model.predict_one_step(key, params, emissions, inputs, missing=self.missing)
