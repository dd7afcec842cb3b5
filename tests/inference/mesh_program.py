"""What tests of meshes run in processes of their own: a mesh gives what one device gives.

`python mesh_program.py quick|numbers|forms`, with the folders of the tests in PYTHONPATH.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from problems import make_problem

import ssmlin
from ssmlin import matrix_lgssm_filter, matrix_lgssm_smoother
from ssmlin.learning import _devices, fit_sgd


def mesh_of(**sizes):
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes))


def close(ours, expected):
    leaves = zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True)
    for a, b in leaves:
        if not a.is_fully_addressable:
            a = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(a.sharding.mesh, jax.P()))(a)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-9)


def sequence(steps):
    """A problem with missing steps."""
    problem = make_problem("gated_deltanet", steps=steps)
    y = problem.emissions.copy()
    y[[2, -1]] = np.nan
    return problem.lgssm, y


def gradient(lgssm, y, **options):
    """Of a function of all that the filter returns."""

    def loss(lgssm):
        found = matrix_lgssm_filter(lgssm, y, store="last", **options)
        moments = jnp.sum(jnp.sin(found.filtered_means)) + jnp.sum(found.filtered_covariances**2)
        return found.marginal_loglik + jnp.sum(jnp.cos(found.emission_means)) + moments

    return jax.jit(jax.value_and_grad(loss))(lgssm)


def check_gradient(mesh):
    """Of a length that the devices cannot share out evenly."""
    lgssm, y = sequence(11)
    close(gradient(lgssm, y, mesh=mesh), gradient(lgssm, y))


def check_smoother(mesh):
    lgssm, y = sequence(11)
    close(matrix_lgssm_smoother(lgssm, y, mesh=mesh), matrix_lgssm_smoother(lgssm, y))
    last = matrix_lgssm_filter(lgssm, y, mesh=mesh, store="last")
    close(last, matrix_lgssm_filter(lgssm, y, store="last"))


def check_forms(mesh):
    lgssm, y = sequence(11)
    for options in ({"store": "means"}, {"covariance_form": "square_root"}):
        ours = matrix_lgssm_smoother(lgssm, y, mesh=mesh, **options)
        close(ours, matrix_lgssm_smoother(lgssm, y, **options))
    # Several chunks on every device.
    close(gradient(lgssm, y, mesh=mesh, method="chunked"), gradient(lgssm, y))


def check_entries(mesh):
    """Single entries missing: rows with covariances of their own."""
    lgssm = ssmlin.matrix_lgssm(
        "bayesian_memory", keys=np.random.default_rng(0).normal(size=(11, 2)), alpha=0.9,
        value_dim=2, process_noise=0.1, row_cov=np.array([1.0, 2.0]),
    )  # fmt: skip
    y = np.random.default_rng(1).normal(size=(11, 2))
    y[3, 0] = np.nan
    close(matrix_lgssm_filter(lgssm, y, mesh=mesh), matrix_lgssm_filter(lgssm, y))


def check_batches(mesh):
    problems = [make_problem("gated_deltanet", steps=11, seed=i, m=1) for i in range(4)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *(p.lgssm for p in problems))
    y = np.stack([p.emissions for p in problems])

    def loss(lgssm, **options):
        found = matrix_lgssm_filter(lgssm, y, store="loglik", **options)
        return jnp.sum(jnp.sin(found.marginal_loglik))

    ours, expected = (jax.jit(jax.grad(partial(loss, mesh=m)))(batch) for m in (mesh, None))
    close(ours, expected)


def check_model(mesh):
    """A model that has the mesh: its likelihood, gradient and smoother."""
    y = np.sin(np.arange(11.0))[:, None]
    model = ssmlin.LinearAttentionSSM(
        "gated_deltanet", 1, 1, 2, num_lags=1, row_cov="integrated_diagonal"
    )
    inputs = model.compute_inputs(y)
    params, _ = model.initialize(emissions=y, inputs=inputs)
    spread = ssmlin.LinearAttentionSSM(**model.settings | {"mesh": mesh})

    def found(model):
        def loss(params):
            return model.marginal_log_prob(params, y, inputs)

        return jax.jit(jax.value_and_grad(loss))(params), model.smoother(params, y, inputs)

    close(found(spread), found(model))


def check_fit(number):
    """Sequences of a fit are shared out over the devices; two epochs are those of one device."""
    y = np.random.default_rng(0).normal(size=(number, 8, 1))
    model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 2)
    params, props = model.initialize(emissions=y)

    def fit():
        fitted, history = fit_sgd(model, params, props, y, num_epochs=2, progress=False)
        return fitted, history.losses

    spread = fit()
    _devices._sharding = lambda: None
    jax.clear_caches()
    close(spread, fit())


def check_memory(*numbers):
    """What a device holds falls as the number of devices grows."""
    lgssm, y = sequence(4096)
    given, held = [], []
    for number in numbers:
        mesh = Mesh(np.array(jax.devices()[:number]), ("time",))
        over_time = jax.NamedSharding(mesh, jax.P("time"))
        spread = lgssm.map_time(lambda x, s=over_time: jax.device_put(x, s))
        program = jax.jit(lambda m, y, mesh=mesh: matrix_lgssm_filter(m, y, mesh=mesh))
        whole = jax.NamedSharding(mesh, jax.P())
        spread, data = jax.tree.map(
            lambda x, s=whole: jax.device_put(x, s) if x.is_fully_replicated else x,
            (spread, jax.device_put(jnp.asarray(y), over_time)),
        )
        used = program.lower(spread, data).compile().memory_analysis()
        given.append(used.argument_size_in_bytes + used.output_size_in_bytes)
        held.append(used.temp_size_in_bytes)
    print("bytes a device", dict(zip(numbers, zip(given, held, strict=True), strict=True)))
    for sizes in (given, held):
        ratio = sizes[0] / sizes[-1] * numbers[0] / numbers[-1]
        assert 0.8 < ratio < 1.25, (sizes, ratio)


def numbers():
    mesh = mesh_of(time=8)
    check_gradient(mesh)
    check_smoother(mesh)
    check_entries(mesh)
    check_batches(mesh_of(batch=2, time=4))


def forms():
    check_forms(mesh_of(time=8))
    check_model(mesh_of(time=8))
    check_fit(8)
    check_memory(2, 8)


CHECKS = {"quick": lambda: check_gradient(mesh_of(time=2)), "numbers": numbers, "forms": forms}

if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    CHECKS[sys.argv[1]]()
    print("passed")
