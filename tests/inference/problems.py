"""Random matrix-state problems, as a model of the package and as dense arrays for the oracle."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from oracles import GATES, covariance_matrix, dense_operators, random_tokens

import ssmlin
from ssmlin.lgssm import DPLR, DiagPlusLowRank, LowRank, MatrixLGSSM

NOISES = ("none", "isotropic", "per_step", "per_column", "write", "low_rank")


# One program, instead of one for every operation.
matrix_lgssm = jax.jit(
    ssmlin.matrix_lgssm, static_argnums=0, static_argnames=("negative_eigenvalues",)
)


class Problem(NamedTuple):
    lgssm: MatrixLGSSM
    dense: tuple  # (a, b, q, h, r, m0, p0, sigma)
    emissions: np.ndarray


def process_noise(kind, rng, steps, d, b, tokens, name):
    """Arguments of the constructor and the dense Q_t."""
    eye = np.eye(d)
    if kind == "none":
        return {}, np.zeros((steps, d, d))
    if kind == "isotropic":
        return {"process_noise": 0.1}, np.tile(0.1 * eye, (steps, 1, 1))
    if kind == "per_step":
        q = rng.uniform(0.01, 0.3, size=(steps, 1))
        return {"process_noise": q}, q[:, :, None] * eye
    if kind == "per_column":
        q = rng.uniform(0.0, 0.3, size=(1, d))
        q[0, 0] = 0.0  # singular
        return {"process_noise": q}, np.tile(q[0] * eye, (steps, 1, 1))
    if kind == "write":
        # Perturb each value in turn through the dense formulas: the effect on a row is R_t. All
        # rows share one Q_t, which has the mean over them.
        total, m = np.zeros((steps, d, d)), b.shape[1]
        for i in range(m):
            columns = []
            for j in range(int(np.prod(tokens["values"].shape[1:-1]))):
                bumped = {k: v.copy() for k, v in tokens.items()}
                flat = bumped["values"].reshape(steps, -1, m)
                flat[:, j, i] += 1.0
                columns.append(dense_operators(name, bumped)[1][:, i] - b[:, i])
            right = np.stack(columns, axis=-1)
            total += right @ np.swapaxes(right, 1, 2) / m
        return {"write_noise": 0.2}, 0.2 * total
    factor = rng.normal(size=(steps, d, 1))
    noise = DiagPlusLowRank(jnp.full((steps, d), 0.05), jnp.asarray(factor))
    return {"process_noise": noise}, 0.05 * eye + factor @ np.swapaxes(factor, 1, 2)


def make_problem(
    name, noise="isotropic", steps=6, d=3, m=2, n_h=2, seed=0, deterministic=False, signed=False
):
    """A random problem of a mechanism; `deterministic` has Q = 0 and P_0 = 0."""
    rng = np.random.default_rng(seed + 1000)
    tokens = random_tokens(name, steps, d, m, n_h, seed, signed=signed)
    a, b = dense_operators(name, tokens)
    kwargs, q = process_noise("none" if deterministic else noise, rng, steps, d, b, tokens, name)
    p0 = np.zeros((d, d)) if deterministic else covariance_matrix(rng, d)
    sigma = covariance_matrix(rng, m)
    m0, r = rng.normal(size=(m, d)), rng.uniform(0.1, 0.5, size=steps)
    lgssm = matrix_lgssm(
        name,
        **tokens,
        **kwargs,
        initial_mean=m0,
        initial_cov=p0,
        row_cov=sigma,
        emission_noise=r,
        negative_eigenvalues=signed,
    )
    emissions = rng.normal(size=(steps, m))
    return Problem(lgssm, (a, b, q, tokens["queries"], r, m0, p0, sigma), emissions)


def uniform(lgssm, noise_diag=True, noise_rank=2, rank=2):
    """The same model with all ranks brought to the same by zero columns.

    Then the models of all mechanisms have arrays of the same shapes, and what is compiled for one
    serves all.
    """

    def wide(x, rank):
        return jnp.pad(x, ((0, 0), (0, 0), (0, rank - x.shape[-1])))

    a, b, q = lgssm.transition, lgssm.drift, lgssm.process_noise
    diag = q.diag
    if noise_diag:
        diag = jnp.zeros(lgssm.readout.shape) if diag is None else diag
    else:
        assert diag is None
    return replace(
        lgssm,
        transition=DPLR(a.diag, wide(a.left, rank), wide(a.right, rank)),
        drift=LowRank(wide(b.left, rank), wide(b.right, rank)),
        process_noise=DiagPlusLowRank(diag, wide(q.factor, noise_rank)),
    )


__all__ = ["GATES", "NOISES", "Problem", "make_problem", "uniform"]
