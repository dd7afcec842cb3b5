"""The model as a state space model: its operators, its pointwise laws, and draws from it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin import _checks
from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference import matrix_lgssm_sample
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.mechanisms import matrix_lgssm
from ssmlin.models._forecast import draw_states, simulate
from ssmlin.models._initial_state import StateLaw
from ssmlin.models._parameterization import Parameterization
from ssmlin.models._parameters import ParamsLinearAttentionSSM


class StateSpace(Parameterization):
    """The state space model; see :class:`ssmlin.LinearAttentionSSM`."""

    def gate_values(
        self, params: ParamsLinearAttentionSSM, inputs: Float[AnyArray, "T p"]
    ) -> dict[str, Float[Array, "T ..."]]:
        """The gates α_t, β_t, ... at every step, by name."""
        return self.parts.tokens.gate_values(params.tokens, jnp.asarray(inputs))

    @in_full_precision
    def to_lgssm(
        self,
        params: ParamsLinearAttentionSSM,
        inputs: Float[AnyArray, "T p"] | None = None,
        num_timesteps: int | None = None,
    ) -> MatrixLGSSM:
        """The matrix-state model that these parameters and inputs give.

        Args:
            params: constrained parameters.
            inputs: u, (T, p).
            num_timesteps: T, needed where there are no inputs.

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
        contributions = [
            part.contribute(getattr(params, name), u, self.sizes)
            for name, part in self.parts.items()
        ]
        arguments: dict[str, Any] = {}  # of many names, which the parts know
        for one in contributions:
            arguments |= one.arguments
        lgssm = matrix_lgssm(self.mechanism, **arguments)
        for one in contributions:
            if one.finish is not None:
                lgssm = one.finish(lgssm)
        return lgssm

    def initial_law(self, params: ParamsLinearAttentionSSM) -> StateLaw:
        """The law of S_0, with M_0 and P_0, and the prior of a Σ that is integrated out."""
        mean, cov = params.initial.mean, jnp.diag(params.initial.variances)
        mean, cov = self.regression.append_columns(mean, cov, params.regression)
        if self.missing == "entries" and self.emission_dim > 1:
            # Each row will have a covariance of its own.
            cov = jnp.broadcast_to(cov, (*mean.shape, len(cov)))
        return StateLaw(mean, cov, self.row_cov.integrated_law(params.row_cov))

    # ------------------------------------------------------------------------- pointwise laws

    def _one_step(
        self, params: ParamsLinearAttentionSSM, inputs: Float[AnyArray, " p"] | None
    ) -> MatrixLGSSM:
        """The model of one step."""
        one = None if inputs is None else jnp.asarray(inputs)[None]
        return self.to_lgssm(params, one, 1)

    def _state_law(
        self, mean: Float[Array, "m d"], rows: Float[Array, "m m"], columns: Float[Array, "d d"]
    ) -> tfd.Distribution:
        """MN(mean, rows, columns) as a distribution over matrices."""
        flat = tfd.MultivariateNormalFullCovariance(mean.reshape(-1), jnp.kron(rows, columns))
        return tfd.TransformedDistribution(flat, tfb.Reshape(mean.shape))

    def initial_distribution(
        self, params: ParamsLinearAttentionSSM, inputs: Float[AnyArray, " p"] | None = None
    ) -> tfd.Distribution:
        """Law of S_1, the state at the first emission: that of S_0 after the first transition."""
        lgssm = self._one_step(params, inputs)
        a, q = lgssm.transition.to_dense()[0], lgssm.process_noise.to_dense()[0]
        mean = lgssm.initial_mean @ a + lgssm.drift.to_dense()[0]
        return self._state_law(mean, lgssm.row_cov, a.T @ lgssm.initial_cov @ a + q)

    def transition_distribution(
        self,
        params: ParamsLinearAttentionSSM,
        state: Float[AnyArray, "m d"],
        inputs: Float[AnyArray, " p"] | None = None,
    ) -> tfd.Distribution:
        """Law of S_t given S_{t-1} and u_t; has a density only where Q_t is positive definite."""
        lgssm = self._one_step(params, inputs)
        mean = lgssm.transition.apply(jnp.asarray(state)[None])[0] + lgssm.drift.to_dense()[0]
        return self._state_law(mean, lgssm.row_cov, lgssm.process_noise.to_dense()[0])

    def emission_distribution(
        self,
        params: ParamsLinearAttentionSSM,
        state: Float[AnyArray, "m d"],
        inputs: Float[AnyArray, " p"] | None = None,
    ) -> tfd.Distribution:
        """Law of y_t given S_t and u_t."""
        lgssm = self._one_step(params, inputs)
        mean = state @ lgssm.readout[0] + lgssm.emission_bias[0]
        return tfd.MultivariateNormalFullCovariance(mean, lgssm.emission_noise[0] * lgssm.row_cov)

    # ------------------------------------------------------------------------- draws

    def sample(
        self,
        params: ParamsLinearAttentionSSM,
        key: Array,
        num_timesteps: int,
        inputs: Float[AnyArray, "T k"] | None = None,
    ) -> tuple[Float[Array, "T m d"], Float[Array, "T m"]]:
        """Draw states and emissions, also where the noise is singular.

        A model with lags feeds its emissions back, from zeros before the first, if `inputs` holds
        only what is exogenous, (T, p − num_lags·m), or is None with nothing exogenous. Inputs of
        full width p are used unchanged. Where Σ is integrated out it is drawn from its prior.

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
        prior = self.row_cov.integrated_law(params.row_cov)
        if prior is not None:
            row_key, key = jax.random.split(key)
            params = params._replace(
                row_cov=params.row_cov._replace(covariance=prior.sample(row_key))
            )
        if self.num_lags == 0 or given:
            lgssm = self.to_lgssm(params, inputs, num_timesteps)
            _checks.shaped("inputs", lgssm.readout, ("T", "d"), {"T": num_timesteps})
            states, emissions = matrix_lgssm_sample(key, lgssm)
            return states[0], emissions[0]
        start_key, path_key = jax.random.split(key)
        rows = self._row_matrices(params.row_cov.covariance)
        law = self._with_missing("auto").initial_law(params)
        start = draw_states(start_key, law.mean, law.cov, rows, 1)
        lags = jnp.zeros((1, self.num_lags, self.emission_dim), start.dtype)
        exogenous = self._exogenous(inputs, num_timesteps, start.dtype)
        states, emissions = simulate(self, params, path_key, start, rows, lags, exogenous)
        return states[0], emissions[0]

    def _row_matrices(self, row_cov: Float[Array, "..."]) -> Float[Array, "... m m"]:
        """Σ, or many of them, as matrices."""
        return self.row_cov.matrices(row_cov, self.emission_dim)

    def _exogenous(
        self, inputs: Float[AnyArray, "..."] | None, steps: int, dtype: jnp.dtype
    ) -> Float[Array, "T k"]:
        """Check the exogenous part of the inputs."""
        width = self.input_dim - self._num_lagged
        if inputs is None and width == 0:
            return jnp.zeros((steps, 0), dtype)
        if inputs is None or np.shape(inputs) != (steps, width):
            got = None if inputs is None else tuple(np.shape(inputs))
            raise ValueError(
                f"inputs: expected the exogenous inputs of shape {(steps, width)} or all inputs "
                f"of shape {(steps, self.input_dim)}, got {got}"
            )
        return _checks.finite("inputs", _checks.float_array("inputs", inputs))
