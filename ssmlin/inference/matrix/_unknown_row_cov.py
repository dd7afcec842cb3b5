r"""The unknown row covariance Σ integrated out: Student-t predictive laws.

Neither the gains nor the means of the filter depend on Σ. Given Σ, the standardised residuals
$w_t = (y_t - \hat y_t) / \sqrt{s_t}$ are independent N(0, Σ). So if the law of Σ is an inverse
Wishart law, it remains one after every step.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference._gammas import log_gamma_ratio
from ssmlin.inference._missing import Length, observed_entries
from ssmlin.inference._results import PosteriorMatrixLGSSM


class RowCovLaw(NamedTuple):
    r"""Law of the row covariance Σ: inverse Wishart, or on a diagonal inverse gamma.

    $$p(\Sigma) \propto |\Sigma|^{-(\nu + m + 1) / 2}
      \exp(-\tfrac12 \mathrm{tr}\, \Psi \Sigma^{-1})$$

    The entries of a diagonal Σ are independent, $\mathrm{InvGamma}(\nu_i / 2, \psi_i / 2)$, which
    is the same with m = 1. Axes of a batch, such as time, lead both arrays.

    Attributes:
        df: ν > m − 1, a scalar; for a diagonal Σ ν_i > 0, (m,).
        scale: Ψ, positive definite, (m, m); for a diagonal Σ ψ_i > 0, (m,).

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> ssmlin.RowCovLaw(jnp.array([4.0, 6.0]), jnp.array([1.0, 2.0])).mean().tolist()
        [0.5, 0.5]
    """

    df: Float[Array, "..."]
    scale: Float[Array, "... m m"] | Float[Array, "... m"]

    @property
    def is_diagonal(self) -> bool:
        """Whether Σ is diagonal."""
        return jnp.ndim(self.df) == jnp.ndim(self.scale)

    @property
    def student_df(self) -> Float[Array, "..."]:
        """Degrees of freedom n = ν − m + 1 (ν_i on a diagonal) of x, where x ~ N(0, Σ) given Σ.

        x is Student-t with scale matrix Ψ / n and, for n > 2, covariance E[Σ].
        """
        return self.df if self.is_diagonal else self.df - self.scale.shape[-1] + 1

    def discount(self, factor: float | int | Float[Array, ""]) -> "RowCovLaw":
        """Forget: n and Ψ times a factor in (0, 1], which leaves the scale matrix Ψ / n."""
        return RowCovLaw(self.df + (factor - 1) * self.student_df, factor * self.scale)

    def mean(self) -> Float[Array, "... m m"] | Float[Array, "... m"]:
        """E[Σ] = Ψ / (n − 2) with n = `student_df`; NaN for n <= 2, where there is none."""
        spare = jnp.where(self.student_df > 2, self.student_df - 2, jnp.nan)
        return self.scale / (spare if self.is_diagonal else spare[..., None, None])

    def sample(
        self, key: Array, shape: tuple[int, ...] = ()
    ) -> Float[Array, "... m m"] | Float[Array, "... m"]:
        """Draw Σ, or its diagonal; axes of `shape` lead those of the batch."""
        draws: Array = _sample(key, self, shape)
        return draws


@partial(jax.jit, static_argnames="shape")
@in_full_precision
def _sample(key: Array, law: RowCovLaw, shape: tuple[int, ...]) -> Array:
    """Draw Σ, or its diagonal."""
    if law.is_diagonal:
        return law.scale / jax.random.chisquare(key, law.df, shape + law.df.shape, law.df.dtype)
    from tensorflow_probability.substrates.jax import distributions as tfd

    # With B Bᵀ ~ W(ν, I) and Ψ = L Lᵀ, L (B Bᵀ)⁻¹ Lᵀ is a draw, without an inverse of Ψ.
    eye = jnp.eye(law.scale.shape[-1], dtype=law.scale.dtype)
    wishart = tfd.WishartTriL(law.df, scale_tril=eye, input_output_cholesky=True)
    factor = wishart.sample(shape, seed=key)
    root = jnp.broadcast_to(jnp.linalg.cholesky(law.scale).mT, factor.shape)
    root = jax.scipy.linalg.solve_triangular(factor, root, lower=True)
    draw: Array = root.mT @ root
    return draw


Store = Literal["last", "all"]


class PosteriorRowCov(NamedTuple):
    r"""What :func:`integrate_row_cov` returns.

    With n the `student_df` and Ψ the scale of `predictive_row_cov`, y_t given the past is
    Student-t with n degrees of freedom, location `emission_means` of the filter and scale matrix
    s_t Ψ / n.

    Attributes:
        marginal_loglik: log p(y_{1:T}), Σ and the states integrated out, a scalar.
        log_predictive: log p(y_t | y_{1:t-1}), (T,); 0 where nothing was observed.
        row_cov: the law of Σ given y_{1:T}.
        predictive_row_cov: the laws of Σ given y_{1:t-1}, time leading, or None.
    """

    marginal_loglik: Float[Array, ""]
    log_predictive: Float[Array, " T"]
    row_cov: RowCovLaw
    predictive_row_cov: RowCovLaw | None = None


def integrate_row_cov(
    posterior: PosteriorMatrixLGSSM,
    emissions: Float[AnyArray, "T m"],
    prior: RowCovLaw,
    *,
    discount: float | int = 1.0,
    mask: Bool[AnyArray, " T"] | None = None,
    length: Length | None = None,
    store: Store = "last",
) -> PosteriorRowCov:
    r"""Integrate the row covariance Σ out of a filtered model, exactly.

    $$y_t \mid y_{1:t-1} \sim t_{n_t}(\hat y_t, s_t \Psi_{t-1} / n_t), \quad
      n_t = \nu_{t-1} - m + 1$$
    $$\nu_t = \nu_{t-1} + 1, \quad \Psi_t = \Psi_{t-1} + e_t e_t^\top / s_t, \quad
      e_t = y_t - \hat y_t$$

    With a `discount` δ < 1 the row covariance changes over time: n and Ψ are multiplied by δ before
    every observed step, so about the last 1 / (1 − δ) observed steps count. Missing steps do not
    discount. The law of the states is then relative to the latest Σ.

    The state given all data is matrix-t; its covariance is E[Σ | y] ⊗ P_t. Costs O(m²) a step in
    O(T m) memory, gradients included; O(m) on a diagonal. Differentiate as the filter with
    ``gradient="adjoint"``: in reverse, or forward over reverse.

    Args:
        posterior: the result of :func:`ssmlin.matrix_lgssm_filter` for these emissions, where the
            noise of the model is relative to Σ. Its `row_cov` is not used. For a batch, use vmap.
        emissions: y, (T, m); NaN means missing. A partly missing emission counts as wholly
            missing unless the filter kept a covariance for each row (``missing="entries"``).
        prior: the law of Σ.
        discount: δ in (0, 1]; a number, not traced.
        mask: as for the filter.
        length: as for the filter.
        store: "all" keeps the law of Σ before every step, too.

    Returns:
        The likelihood and the law of Σ.

    Raises:
        ValueError: an argument of the wrong shape or range, or single entries missing and a prior
            that is not of a diagonal Σ.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((2, 1)), alpha=1.0,
        ...     value_dim=1, emission_noise=1.0)
        >>> y = jnp.array([[2.0], [jnp.nan]])
        >>> posterior = ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik")
        >>> prior = ssmlin.RowCovLaw(jnp.array([3.0]), jnp.array([1.0]))
        >>> law = ssmlin.integrate_row_cov(posterior, y, prior).row_cov
        >>> law.df.tolist(), law.scale.tolist()
        ([4.0], [3.0])

    Source: Quintana and West (1987), The Statistician 36; West and Harrison (1997), chapter 16,
    where section 16.4.5 is about the discount.
    """
    _checks.one_of("store", store, ("last", "all"))
    if not _checks.is_concrete(discount):
        raise TypeError("discount: expected a number, got one that is being traced")
    if not 0 < discount <= 1:
        raise ValueError(f"discount: expected a number in (0, 1], got {discount}")
    means = posterior.emission_means
    prior = _check_prior(prior, means.shape[-1], means.dtype)
    factor = None if discount == 1 else jnp.asarray(discount, means.dtype)
    arrays = _residual_arrays(posterior, emissions, prior, mask, length)
    result: PosteriorRowCov = _integrate(*arrays, prior, factor, store=store)
    return result


@jax.jit
@in_full_precision
def integrate_row_covs(
    posterior: PosteriorMatrixLGSSM,
    emissions: Float[AnyArray, "T m"],
    priors: RowCovLaw,
    discounts: Float[AnyArray, " N"],
) -> PosteriorRowCov:
    """Integrate Σ out with each of several discounts, in one program for all of them.

    The discounts are data, so other discounts need no other program; they are constants to a
    gradient.

    Args:
        posterior: as for :func:`integrate_row_cov`.
        emissions: as there.
        priors: the law of Σ for each discount, (N, ...).
        discounts: δ in (0, 1].

    Returns:
        As there, every array with a leading axis N.

    Raises:
        ValueError: an argument of the wrong shape, or single entries missing and a prior that is
            not of a diagonal Σ.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> from ssmlin.inference import integrate_row_covs
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((2, 1)), alpha=1.0,
        ...     value_dim=1, emission_noise=1.0)
        >>> y = jnp.array([[2.0], [jnp.nan]])
        >>> posterior = ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik")
        >>> priors = ssmlin.RowCovLaw(jnp.full((2, 1), 3.0), jnp.ones((2, 1)))
        >>> law = integrate_row_covs(posterior, y, priors, jnp.array([1.0, 0.5])).row_cov
        >>> law.df.ravel().tolist(), law.scale.ravel().tolist()
        ([4.0, 2.5], [3.0, 2.5])
    """
    arrays = _residual_arrays(posterior, emissions, priors, None, None)

    def integrate(prior: RowCovLaw, discount: Array) -> PosteriorRowCov:
        found: PosteriorRowCov = _integrate(*arrays, prior, discount, store="last")
        return found

    factors = jax.lax.stop_gradient(jnp.asarray(discounts))
    found: PosteriorRowCov = jax.vmap(integrate)(priors, factors)
    return found


@jax.jit
@in_full_precision
def row_cov_laws(
    posterior: PosteriorMatrixLGSSM,
    emissions: Float[AnyArray, "T m"],
    prior: RowCovLaw,
    discount: Float[AnyArray, ""],
) -> RowCovLaw:
    """The laws of Σ before every step and before one to come, without any densities.

    Args:
        posterior: as for :func:`integrate_row_cov`.
        emissions: as there.
        prior: the law of Σ.
        discount: δ in (0, 1], a constant to a gradient.

    Returns:
        The laws that predict the steps, discounted, (T + 1, ...).

    Raises:
        ValueError: as :func:`integrate_row_covs`.
    """
    arrays = _residual_arrays(posterior, emissions, prior, None, None)
    white, seen, _ = standardised(*arrays)
    factor = jax.lax.stop_gradient(jnp.asarray(discount))
    if prior.is_diagonal:
        counts, terms, known = jnp.broadcast_to(seen, white.shape), white**2, seen
    else:
        counts, terms = seen[:, 0], white[:, :, None] * white[:, None, :]
        known = seen[:, :, None]

    def laws(start: Array, terms: Array, seen: Array) -> Array:
        before, last = _remembered(start, terms, seen, factor)
        return jnp.concatenate([before, factor * last[None]])

    dfs = laws(prior.student_df, counts, counts)
    more = 0 if prior.is_diagonal else white.shape[1] - 1
    return RowCovLaw(dfs + more, laws(prior.scale, terms, known))


def _residual_arrays(
    posterior: PosteriorMatrixLGSSM,
    emissions: Float[AnyArray, "T m"],
    prior: RowCovLaw,
    mask: Bool[AnyArray, " T"] | None,
    length: Length | None,
) -> tuple[Array, Array, Array, Array]:
    """Emissions, their means and scales, and which were observed: the last two may be columns."""
    means, scales = map(jax.device_put, (posterior.emission_means, posterior.emission_scales))
    if means.ndim != 2:
        raise ValueError(
            "posterior: expected emission_means of shape (T, m), for a batch under vmap, got "
            f"{tuple(means.shape)}"
        )
    sizes = dict(zip(("T", "m"), means.shape, strict=True))
    y = _checks.shaped("emissions", _checks.float_array("emissions", emissions), ("T", "m"), sizes)
    by_rows = scales.ndim == 2
    if by_rows and not prior.is_diagonal:
        raise ValueError(
            "prior: expected a diagonal Σ, scale of shape (m,), where single entries are missing; "
            f"got scale of shape {tuple(prior.scale.shape)}"
        )
    observed = observed_entries(y, mask, length, sizes)
    if not by_rows:
        observed = observed.all(axis=-1, keepdims=True)
    return y.astype(means.dtype), means, scales if by_rows else scales[:, None], observed


def _check_prior(prior: RowCovLaw, m: int, dtype: np.dtype) -> RowCovLaw:
    """A law of one Σ with arrays of the given type; on a diagonal, degrees for every row."""
    if not isinstance(prior, RowCovLaw):
        raise TypeError(f"prior: expected a RowCovLaw, got {_checks.describe(prior)}")
    df = _checks.float_array("prior.df", prior.df).astype(dtype)
    scale = _checks.float_array("prior.scale", prior.scale).astype(dtype)
    if scale.shape == (m,):
        df = _checks.broadcast("prior.df", df, ("m",), {"m": m})
        _positive("prior.scale", scale)
        _positive("prior.df", df)
    elif scale.shape == (m, m):
        _checks.shaped("prior.df", df, (), {})
        _checks.covariance("prior.scale", scale)
        _positive("prior.scale", jnp.linalg.eigvalsh(scale))
        _positive("prior.df", df, above=m - 1)
    else:
        raise ValueError(
            f"prior.scale: expected shape (m,) or (m, m) with m = {m}, got {tuple(scale.shape)}"
        )
    return RowCovLaw(df, scale)


def _positive(name: str, x: Array, above: float | int = 0) -> None:
    """Raise ValueError unless a concrete `x` is finite and larger than `above` everywhere."""
    if _checks.is_concrete(x) and not (np.isfinite(x) & (np.asarray(x) > above)).all():
        least = " in every direction" if name.endswith("scale") else ""
        raise ValueError(f"{name}: expected finite values > {above}{least}, got {np.asarray(x)}")


@partial(jax.jit, static_argnames="store")
@in_full_precision
def _integrate(
    emissions: Array,
    means: Array,
    scales: Array,
    observed: Array,
    prior: RowCovLaw,
    discount: Array | None,
    *,
    store: Store,
) -> PosteriorRowCov:
    """Standardise the residuals and integrate."""
    white, seen, scales = standardised(emissions, means, scales, observed)
    if prior.is_diagonal:
        return _independent(white, seen, scales, prior, store, discount)
    return _joint(white, seen[:, 0], scales[:, 0], prior, store, discount)


def standardised(
    emissions: Array, means: Array, scales: Array, observed: Array
) -> tuple[Array, Array, Array]:
    """Residuals, zero where missing; what was observed, as numbers; and the scales there."""
    # Missing entries are replaced before any arithmetic, so no NaN can reach a gradient.
    scales = jnp.where(observed, scales, 1.0)
    white = (jnp.where(observed, emissions, means) - means) / jnp.sqrt(scales)
    return white, observed.astype(means.dtype), scales


def _before(x: Array) -> Array:
    """The sum of all earlier steps, for every step."""
    return jnp.cumsum(jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]), axis=0)


def _remembered(
    start: Array, terms: Array, seen: Array, discount: Array | None
) -> tuple[Array, Array]:
    """The sums before each step, and after the last: observed steps discount, then add."""
    if discount is None:
        return start + _before(terms), start + terms.sum(axis=0)

    # A scan compiles in a quarter of the time that an associative one takes.
    def step(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, term = inputs
        return kept * total + term, total

    kept = jnp.broadcast_to(jnp.where(seen > 0, discount, 1.0), terms.shape)
    first = jnp.broadcast_to(start, terms.shape[1:]).astype(terms.dtype)
    last, before = jax.lax.scan(step, first, (kept, terms))
    return discount * before, last


def _log_density(df: Array, m: int, scales: Array, log_det: Array, ratios: Array) -> Array:
    """Log density of N(0, s Σ) over Σ ~ IW(ν, Ψ), given log |Ψ| and the ratio w' Ψ⁻¹ w."""
    half, rest = 0.5 * m, 0.5 * (df + 1 - m)
    normalizer = log_gamma_ratio(rest, half) - half * jnp.log(jnp.pi * scales)
    density: Array = normalizer - 0.5 * log_det - 0.5 * (df + 1) * jnp.log1p(ratios)
    return density


def _independent(
    white: Array, seen: Array, scales: Array, prior: RowCovLaw, store: Store, discount: Array | None
) -> PosteriorRowCov:
    """A diagonal Σ: every row by itself."""
    terms, last, laws = by_rows(white, seen, scales, prior, discount)
    kept = laws if store == "all" else None
    log_predictive = jnp.sum(terms, axis=1)
    return PosteriorRowCov(log_predictive.sum(), log_predictive, last, kept)


def by_rows(
    white: Array, seen: Array, scales: Array, prior: RowCovLaw, discount: Array | None
) -> tuple[Array, RowCovLaw, RowCovLaw]:
    """Log densities of every row, and the laws after the last step and before every step."""
    squares, counts = white**2, jnp.broadcast_to(seen, white.shape)
    dfs, last_df = _remembered(prior.df, counts, counts, discount)
    sums, last_scale = _remembered(prior.scale, squares, counts, discount)
    terms = _log_density(dfs, 1, scales, jnp.log(sums), squares / sums)
    return terms * seen, RowCovLaw(last_df, last_scale), RowCovLaw(dfs, sums)


def _joint(
    white: Array, seen: Array, scales: Array, prior: RowCovLaw, store: Store, discount: Array | None
) -> PosteriorRowCov:
    """A full Σ."""
    m = white.shape[1]
    student_dfs, last_df = _remembered(prior.student_df, seen, seen, discount)
    df, last_df = student_dfs + m - 1, last_df + m - 1
    kept = jnp.ones_like(seen) if discount is None else jnp.where(seen > 0, discount, 1.0)
    ratios = _ratios(white, prior.scale, kept)
    forgotten = m * jnp.cumsum(jnp.log(kept))
    log_det = 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(prior.scale))))
    log_det = log_det + forgotten + _before(jnp.log1p(ratios))
    log_predictive = seen * _log_density(df, m, scales, log_det, ratios)
    outer = white[:, :, None] * white[:, None, :]
    laws = None
    if store == "all" or discount is not None:
        before, last = _remembered(prior.scale, outer, seen[:, None, None], discount)
        laws = RowCovLaw(df, before) if store == "all" else None
    else:
        last = prior.scale + white.T @ white
    return PosteriorRowCov(log_predictive.sum(), log_predictive, RowCovLaw(last_df, last), laws)


@jax.custom_vjp
def _ratios(
    white: Float[Array, "T m"], scale: Float[Array, "m m"], kept: Float[Array, " T"]
) -> Float[Array, " T"]:
    """Every w_tᵀ (d_t Ψ_{t-1})⁻¹ w_t, where Ψ_t = d_t Ψ_{t-1} + w_t w_tᵀ; d is `kept`."""
    return _ratios_forward(white, scale, kept)[0]


@in_full_precision
def _ratios_forward(
    white: Array, scale: Array, kept: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    """By Potter's update of a root of Ψ⁻¹, which stays positive semidefinite."""

    def step(root: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        w, d = inputs
        root = root / jnp.sqrt(d)
        f = root.T @ w
        ratio, direction = f @ f, root @ f
        total = 1 + ratio
        root = root - jnp.outer(direction / (total + jnp.sqrt(total)), f)
        return root, (ratio, direction)

    eye = jnp.eye(len(scale), dtype=scale.dtype)
    inverse = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(scale), eye, lower=True)
    _, (ratios, directions) = jax.lax.scan(step, inverse.T, (white, kept))
    return ratios, (white, directions, kept)


@in_full_precision
def _ratios_backward(
    saved: tuple[Array, Array, Array], cotangents: Array
) -> tuple[Array, Array, Array]:
    """With u_t = Ψ⁻¹ w_t for Ψ before step t, a ratio changes by 2 u_tᵀ dw_t − u_tᵀ dΨ u_t."""

    def step(adjoint: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        w, u, c, d = inputs
        return d * (adjoint - jnp.outer(c * u, u)), 2 * (c * u + adjoint @ w)

    white, directions, kept = saved
    m = white.shape[1]
    zero = jnp.zeros((m, m), white.dtype)
    adjoint, out = jax.lax.scan(step, zero, (white, directions, cotangents, kept), reverse=True)
    # The discounts are constants.
    return out, adjoint, jnp.zeros_like(kept)


_ratios.defvjp(_ratios_forward, _ratios_backward)
