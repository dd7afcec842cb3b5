r"""The matrix-state linear Gaussian state space model, given its time-varying operators."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin._typing import AnyArray, Scalar
from ssmlin.lgssm._operators import DPLR, DiagPlusLowRank, LowRank

if TYPE_CHECKING:
    from dynamax.linear_gaussian_ssm.inference import ParamsLGSSM


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MatrixLGSSM:
    r"""A linear Gaussian state space model whose latent state is an m × d matrix.

    $$S_0 \sim \mathrm{MN}(M_0, \Sigma, P_0), \qquad
      S_t = S_{t-1} A_t + B_t + W_t, \quad W_t \sim \mathrm{MN}(0, \Sigma, Q_t)$$
    $$y_t = S_t h_t + c_t + \varepsilon_t, \qquad \varepsilon_t \sim N(0, r_t \Sigma),
      \qquad t = 1, \dots, T$$

    The row covariance Σ does not enter the covariance recursion, so one d × d matrix P_t serves
    all m rows, and the exact posterior of S_t is MN(M_t, Σ, P_t).

    A pytree. :func:`ssmlin.matrix_lgssm` builds one from a mechanism's tokens and checks them.

    Args:
        initial_mean: M_0, shape (m, d); the law of S_0, before the first transition.
        initial_cov: P_0, shape (d, d), positive semidefinite.
        transition: A_t, a :class:`DPLR` with leading axis T.
        drift: B_t, a :class:`LowRank` with leading axis T.
        process_noise: Q_t, a :class:`DiagPlusLowRank` with leading axis T; it may be zero.
        readout: h_t, shape (T, d).
        emission_noise: r_t >= 0, shape (T,).
        row_cov: Σ, shape (m, m), positive definite.
        emission_bias: c_t, shape (T, m).
        independent_rows: whether Σ is known to be diagonal (static).

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((3, 2)), alpha=0.9,
        ...     value_dim=1, process_noise=0.1)
        >>> lgssm.num_timesteps, lgssm.value_dim, lgssm.key_dim, lgssm.readout.shape
        (3, 1, 2, (3, 2))

    Source: the matrix-variate dynamic linear model of Quintana and West (1987).
    """

    #: The fields are not checked, since JAX rebuilds pytrees with leaves that are no arrays.
    __no_type_check__: ClassVar[bool] = True

    initial_mean: Float[Array, "m d"]
    initial_cov: Float[Array, "d d"]
    transition: DPLR
    drift: LowRank
    process_noise: DiagPlusLowRank
    readout: Float[Array, "T d"]
    emission_noise: Float[Array, " T"]
    row_cov: Float[Array, "m m"]
    emission_bias: Float[Array, "T m"]
    independent_rows: bool = field(default=False, metadata={"static": True})

    @property
    def num_timesteps(self) -> int:
        """The number T of steps."""
        return self.readout.shape[-2]

    @property
    def value_dim(self) -> int:
        """The number m of rows of the state, the dimension of an emission."""
        return self.initial_mean.shape[-2]

    @property
    def key_dim(self) -> int:
        """The number d of columns of the state."""
        return self.initial_mean.shape[-1]

    @property
    def dtype(self) -> np.dtype:
        """The floating point type of the states."""
        return self.initial_mean.dtype

    def map_time(self, function: Callable[[Array], Array]) -> "MatrixLGSSM":
        """Apply a function to every array that has a time axis."""
        timed = (
            self.transition,
            self.drift,
            self.process_noise,
            self.readout,
            self.emission_noise,
            self.emission_bias,
        )
        transition, drift, process_noise, readout, noise, bias = jax.tree.map(function, timed)
        return replace(
            self,
            transition=transition,
            drift=drift,
            process_noise=process_noise,
            readout=readout,
            emission_noise=noise,
            emission_bias=bias,
        )

    def append_columns(
        self,
        readout: Float[AnyArray, "T k"],
        variance: Scalar,
        noise: Scalar = 0.0,
    ) -> "MatrixLGSSM":
        r"""Append k columns C to the state: coefficients of a regression, which may drift.

        $$C_0 \sim \mathrm{MN}(0, \Sigma, \tau^2 I), \qquad
          C_t = C_{t-1} + N_t, \quad N_t \sim \mathrm{MN}(0, \Sigma, q I)$$
        $$y_t = S_t h_t + C_t z_t + c_t + \varepsilon_t$$

        So the coefficients of a regression on z_t are integrated out together with the memory S.
        Neither enters the other's transition.

        Args:
            readout: z_t, the inputs of the regression, (T, k).
            variance: τ² >= 0, the prior variance of a coefficient.
            noise: q >= 0, the variance of its change in a step.

        Returns:
            The model whose state is [S_t, C_t], (m, d + k).

        Examples:
            >>> import jax.numpy as jnp, ssmlin
            >>> memory = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((3, 2)), alpha=0.9,
            ...     value_dim=1, process_noise=0.1)
            >>> memory.append_columns(jnp.ones((3, 1)), variance=10.0).initial_mean.shape
            (1, 3)
        """
        wide = readout.shape

        def rows(x: Array) -> Array:
            return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, wide[-1]), (0, 0)])

        def columns(x: Array, more: Float[AnyArray, "..."] | float | np.float32) -> Array:
            return jnp.concatenate([x, jnp.broadcast_to(more, wide).astype(self.dtype)], axis=-1)

        q = self.process_noise.diag
        q = jnp.zeros_like(self.readout) if q is None else q
        extra = variance * jnp.eye(wide[-1], dtype=self.dtype)
        return replace(
            self,
            initial_mean=jnp.pad(self.initial_mean, ((0, 0), (0, wide[-1]))),
            initial_cov=jax.scipy.linalg.block_diag(self.initial_cov, extra),
            transition=DPLR(
                columns(self.transition.diag, 1.0),
                rows(self.transition.left),
                rows(self.transition.right),
            ),
            drift=LowRank(self.drift.left, rows(self.drift.right)),
            process_noise=DiagPlusLowRank(columns(q, noise), rows(self.process_noise.factor)),
            readout=columns(self.readout, readout),
        )

    def to_dense(self) -> dict[str, Array]:
        """Return the operators as full matrices: A (T, d, d), B (T, m, d), Q (T, d, d)."""
        return {
            "A": self.transition.to_dense(),
            "B": self.drift.to_dense(),
            "Q": self.process_noise.to_dense(),
        }

    def to_dynamax(self) -> "ParamsLGSSM":
        r"""Convert to dynamax's parameters, for any dynamax function that takes ``ParamsLGSSM``.

        The state is S_t flattened row by row (m·d numbers) and

        $$F_t = I_m \otimes A_t^\top,\quad b_t = \mathrm{vec}_{row}(B_t),\quad
          Q = \Sigma \otimes Q_t,\quad H_t = I_m \otimes h_t^\top,\quad R_t = r_t \Sigma.$$

        dynamax's ``initial`` is the law at the first emission, which is that of S_1, after the
        first transition. ``F[t]`` takes z_{t-1} to z_t, and entry 0 is ignored (dynamax >= 1.0.3).

        Returns:
            dynamax's ParamsLGSSM, whose time-varying arrays have length T.

        Examples:
            >>> import jax.numpy as jnp, ssmlin
            >>> from dynamax.linear_gaussian_ssm import lgssm_filter
            >>> lgssm = ssmlin.matrix_lgssm("mamba2", keys=jnp.ones((3, 2)), alpha=0.9,
            ...     values=jnp.ones((3, 1)), queries=jnp.ones((3, 2)), emission_noise=0.1,
            ...     process_noise=0.1)
            >>> lgssm_filter(lgssm.to_dynamax(), jnp.zeros((3, 1))).filtered_means.shape
            (3, 2)
        """
        # dynamax makes arrays when it is imported, which must not belong to a trace.
        with jax.ensure_compile_time_eval():
            from dynamax.linear_gaussian_ssm.inference import (
                ParamsLGSSM,
                ParamsLGSSMDynamics,
                ParamsLGSSMEmissions,
                ParamsLGSSMInitial,
            )

        steps, m, d = self.num_timesteps, self.value_dim, self.key_dim
        eye = jnp.eye(m, dtype=self.dtype)
        dense = self.to_dense()

        def rows_kron(left: Array, right: Array) -> Array:
            """Return left ⊗ right_t for every t."""
            product = jnp.einsum("ij,tkl->tikjl", left, right)
            return product.reshape(steps, m * right.shape[-2], m * right.shape[-1])

        first_mean = self.initial_mean @ dense["A"][0] + dense["B"][0]
        first_cov = dense["A"][0].T @ self.initial_cov @ dense["A"][0] + dense["Q"][0]
        return ParamsLGSSM(
            initial=ParamsLGSSMInitial(
                mean=first_mean.reshape(-1), cov=jnp.kron(self.row_cov, first_cov)
            ),
            dynamics=ParamsLGSSMDynamics(
                weights=rows_kron(eye, dense["A"].mT),
                bias=dense["B"].reshape(steps, m * d),
                input_weights=jnp.zeros((m * d, 0), self.dtype),
                cov=rows_kron(self.row_cov, dense["Q"]),
            ),
            emissions=ParamsLGSSMEmissions(
                weights=rows_kron(eye, self.readout[:, None, :]),
                bias=self.emission_bias,
                input_weights=jnp.zeros((m, 0), self.dtype),
                cov=self.emission_noise[:, None, None] * self.row_cov,
            ),
        )
