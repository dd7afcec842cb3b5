"""Sampling the parameters' posterior, against grids, known truths and the model's own densities."""

import os
import subprocess
import sys
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiers import KINDS, cases, slow

import ssmlin
from ssmlin.learning import _nuts as nuts
from ssmlin.learning._log_posterior import Problem, Target, choose, paths

T, SEEN = 40, 30
LABELS = np.arange("2000-01", "2002-07", dtype="datetime64[M]")
KEY = jax.random.key(7)


def make(mechanism="gated_deltanet", m=1, **options):
    """A model with constant gates, and inputs."""
    model = ssmlin.LinearAttentionSSM(mechanism, m, 2, 2, gates="constant", **options)
    u = jnp.asarray(np.random.default_rng(3).normal(size=(T, 2)))
    params, props = model.initialize(jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    if params.tokens.values is not None:
        # Writes that are large enough to tell the gates.
        values = jax.tree.map(lambda x: 20 * x, params.tokens.values)
        params = params._replace(tokens=params.tokens._replace(values=values))
    return model, params, props, u


def sample(*args, **options):
    """Quiet, and without the warnings that short runs deserve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return ssmlin.sample_posterior(*args, **{"progress": False, **options})


@pytest.fixture(scope="module")
def problem():
    model, params, props, u = make()
    _, y = model.sample(params, jax.random.key(1), T, u)
    return model, params, props, y, u


@pytest.fixture(scope="module")
def grid(problem):
    """Moments of α and β and the evidence, by quadrature over both."""
    model, params, _, y, u = problem
    laws = model.prior_distributions(params)
    nodes, weights = np.polynomial.legendre.leggauss(80)
    nodes, weights = jnp.asarray(0.5 * (nodes + 1)), jnp.asarray(0.5 * weights)

    def at(alpha, beta):
        gates = {
            "alpha": params.tokens.alpha._replace(value=alpha),
            "beta": params.tokens.beta._replace(value=beta),
        }
        new = params._replace(tokens=params.tokens._replace(**gates))
        prior = laws["tokens.alpha.value"].log_prob(alpha)
        prior += laws["tokens.beta.value"].log_prob(beta)
        return prior + model.marginal_log_prob(new, y, u)

    log_p = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))(nodes, nodes)
    log_p = log_p + jnp.log(weights[:, None] * weights)
    evidence = jax.nn.logsumexp(log_p)
    p = jnp.exp(log_p - evidence)
    moments = {}
    for name, q in (("alpha", p.sum(1)), ("beta", p.sum(0))):
        mean = jnp.sum(q * nodes)
        moments[name] = float(mean), float(jnp.sqrt(jnp.sum(q * (nodes - mean) ** 2)))
    return moments, float(evidence)


@pytest.mark.parametrize("algorithm", [slow("nuts"), "smc"])
def test_nuts_and_smc_against_quadrature(problem, grid, algorithm):
    moments, evidence = grid
    options = dict(variables=("alpha", "beta"), num_samples=500, num_warmup=300)
    draws = sample(KEY, *problem[:2], *problem[2:], algorithm=algorithm, **options)
    summary = draws.posterior.to_dataset()
    for name, (mean, sd) in moments.items():
        values = summary[name].values.reshape(-1)
        # 2000 draws, at least a third of them effective.
        assert abs(values.mean() - mean) < 5 * sd / np.sqrt(600)
        assert abs(values.std() / sd - 1) < 0.12
    if algorithm == "smc":
        attributes = draws.posterior.attrs
        assert abs(attributes["log_evidence"] - evidence) < 0.05
        assert attributes["log_evidence_se"] < 0.05


@pytest.mark.parametrize("algorithm", [slow("laplace"), "pathfinder"])
def test_laplace_and_pathfinder_are_near_and_say_how_near(problem, grid, algorithm):
    moments, evidence = grid
    draws = sample(KEY, *problem, algorithm=algorithm, variables=("alpha", "beta"), num_samples=500)
    weights = draws.sample_stats["log_weight"].values.reshape(-1)
    share = np.exp(weights - np.logaddexp.reduce(weights))
    for name, (mean, sd) in moments.items():
        values = draws.posterior[name].values.reshape(-1)
        assert abs(values.mean() - mean) < 0.5 * sd
        # Weighted by importance they are the posterior's.
        assert abs(np.sum(share * values) - mean) < 0.2 * sd
    assert draws.posterior.attrs["pareto_k"] < 0.7
    if algorithm == "laplace":
        assert abs(draws.posterior.attrs["log_evidence"] - evidence) < 0.5


@pytest.fixture(scope="module")
def laplace(problem):
    """Draws that have seen the first 30 steps, but one, and everything that can be asked for."""
    model, params, props, y, u = problem
    return sample(
        KEY, model, params, props, y[:SEEN].at[5].set(jnp.nan), u[:SEEN],
        variables=("alpha", "beta"), num_samples=10, algorithm="laplace", num_chains=2,
        time=LABELS, states=True, posterior_predictive=True,
    )  # fmt: skip


def test_what_comes_back(problem, laplace):
    model, params, props, y, u = problem
    y, u, draws = y[:SEEN].at[5].set(jnp.nan), u[:SEEN], laplace
    posterior = draws.posterior
    assert set(posterior.data_vars) == {"alpha", "beta", "alpha_t", "beta_t", "states"}
    assert posterior["alpha_t"].dims == ("chain", "draw", "time")
    np.testing.assert_array_equal(posterior["time"], LABELS.astype(posterior["time"].dtype))
    assert posterior["states"].shape == (2, 10, SEEN, 1, 2)
    assert draws.posterior_predictive["emissions"].shape == (2, 10, SEEN, 1)
    np.testing.assert_array_equal(draws.observed_data["emissions"], y)
    every = ssmlin.posterior_params(params, draws)
    one = jax.tree.map(lambda x: x[1, 3], every)
    np.testing.assert_array_equal(one.tokens.keys.weights, params.tokens.keys.weights)
    assert float(one.tokens.alpha.value) == float(posterior["alpha"][1, 3])
    np.testing.assert_allclose(
        draws.log_likelihood["emissions"][1, 3], model.log_predictive(one, y, u), rtol=1e-9
    )
    np.testing.assert_allclose(
        posterior["beta_t"][1, 3], model.gate_values(one, u)["beta"], rtol=1e-12
    )
    np.testing.assert_allclose(
        draws.sample_stats["lp"][1, 3] - _log_jacobian(model, params, props, one),
        model.marginal_log_prob(one, y, u) + model.log_prior(one),
        rtol=1e-9,
    )


def _log_jacobian(model, params, props, at):
    """Σ log σ'(logit) of α and β, both on (0, 1)."""
    values = [at.tokens.alpha.value, at.tokens.beta.value]
    return sum(jnp.log(x) + jnp.log1p(-x) for x in values)


@pytest.mark.slow
def test_state_paths_and_predictions_have_the_smoothers_moments(problem):
    model, params, props, y, u = problem
    tight = sample(
        KEY, model, params, props, y, u, variables=("alpha", "beta"), num_samples=500,
        algorithm="laplace", states=True,
    )  # fmt: skip
    # Averaged over draws of α and β, by the law of total expectation.
    every = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), ssmlin.posterior_params(params, tight)
    )
    means = jax.jit(jax.vmap(lambda p: model.smoother(p, y, u).smoothed_means))(every).mean(0)
    covs = jax.jit(jax.vmap(lambda p: model.smoother(p, y, u).smoothed_covariances))(every).mean(0)
    paths_ = tight.posterior["states"].values.reshape(-1, T, 1, 2)
    sds = np.sqrt(np.diagonal(covs, axis1=1, axis2=2))[:, None]
    assert np.abs((paths_.mean(0) - means) / sds).max() < 5 / np.sqrt(2000)

    ahead = ssmlin.predict_one_step(KEY, model, params, tight, y, u)
    terms = jax.jit(jax.vmap(lambda p: model.log_predictive(p, y, u)))(every)
    np.testing.assert_allclose(
        ahead["log_density"], jax.nn.logsumexp(terms, axis=0) - np.log(2000), rtol=1e-9
    )
    drawn = ahead["emissions"].values.reshape(-1, T)
    spread = np.sqrt(ahead["covariance"].values[:, 0, 0])
    assert np.abs((drawn.mean(0) - ahead["mean"].values[:, 0]) / spread).max() < 5 / np.sqrt(2000)
    np.testing.assert_allclose(drawn.std(0), spread, rtol=0.15)
    seen = np.isfinite(np.asarray(y)[:, 0])
    assert seen.all()


def test_predictions_of_unseen_steps_continue_the_series(problem, laplace):
    model, params, _, y, u = problem
    draws = laplace
    ahead = ssmlin.predict_one_step(KEY, model, params, draws, y, u)
    assert ahead["log_density"].shape == (T,)
    changed = ssmlin.predict_one_step(KEY, model, params, draws, y.at[35].add(9.0), u)
    np.testing.assert_array_equal(ahead["mean"][:36], changed["mean"][:36])
    assert not np.allclose(ahead["mean"][36:], changed["mean"][36:])


@pytest.mark.slow
def test_batches_and_missing_entries():
    model, params, props, u = make("mamba2", m=2)
    rng = np.random.default_rng(0)
    y = rng.normal(size=(3, T, 2))
    y[0, 4, 1] = y[1, 7] = np.nan
    y[2, 30:] = np.nan
    y, u = jnp.asarray(y), jnp.stack([u, 2 * u, -u])
    draws = sample(
        KEY, model, params, props, y, u, variables="alpha", num_samples=4, num_chains=2,
        algorithm="laplace", posterior_predictive=True,
    )  # fmt: skip
    assert draws.posterior["alpha_t"].dims == ("chain", "draw", "sequence", "time")
    one = jax.tree.map(lambda x: x[0, 2], ssmlin.posterior_params(params, draws))
    for b in range(3):
        np.testing.assert_allclose(
            draws.log_likelihood["emissions"][0, 2, b],
            model.log_predictive(one, y[b], u[b]),
            rtol=1e-9,
        )
    assert draws.posterior_predictive["emissions"].shape == (2, 4, 3, T, 2)


@pytest.mark.parametrize("name", cases(ssmlin.MECHANISMS, *KINDS[2:]))
def test_the_density_that_is_sampled(name):
    """For all trainable parameters of every mechanism: change of variables against a jacobian."""
    model = ssmlin.LinearAttentionSSM(name, 2, 1, 2, row_cov="full", num_steps=2)
    rng = np.random.default_rng(0)
    y, u = jnp.asarray(rng.normal(size=(1, 6, 2))), jnp.asarray(rng.normal(size=(1, 6, 1)))
    params, props = model.initialize(jax.random.key(2), emissions=y[0], inputs=u[0])
    problem = Problem(params, props, y, u)
    target = Target(model.given_missing(y), choose(params, props, None))
    position = target.position(problem)
    back = target.params(position, problem)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)

    @jax.jit
    def all_three(position, params):
        flat, unravel = jax.flatten_util.ravel_pytree(position)

        def constrained(x):
            at = target.params(unravel(x), problem)
            leaves = dict(zip(paths(at), jax.tree.leaves(at), strict=True))
            lower = jnp.tril_indices(2)
            # A symmetric matrix is as many numbers as its lower triangle.
            free = [
                v[lower] if n == "row_cov.covariance" else v.ravel()
                for n, v in leaves.items()
                if n in target.names
            ]
            return jnp.concatenate(free)

        jacobian = jnp.linalg.slogdet(jax.jacfwd(constrained)(flat))[1]
        density = model.log_prior(params) + model.marginal_log_prob(params, y[0], u[0])
        return target.log_density(position, problem), jacobian, density

    density, jacobian, expected = all_three(position, params)
    np.testing.assert_allclose(density - jacobian, expected, rtol=1e-9, atol=1e-8)


def test_choice_of_variables(problem):
    model, params, props, y, u = problem
    everything = choose(params, props, None)
    assert "tokens.alpha.value" in everything and "initial.mean" not in everything
    assert choose(params, props, "alpha") == ("tokens.alpha.value",)
    assert set(choose(params, props, ("tokens",))) == {
        name for name in everything if name.startswith("tokens.")
    }
    with pytest.raises(ValueError, match="variables: expected names of trainable.*'gamma'"):
        sample(KEY, model, params, props, y, u, variables="gamma")
    with pytest.raises(ValueError, match="variables"):
        sample(KEY, model, params, props, y, u, variables="initial.mean")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "gibbs"}, "algorithm"),
        ({"num_chains": 0}, "num_chains"),
        ({"target_acceptance": 1.0}, "target_acceptance"),
        ({"time": [1, 2]}, "time: expected 40 labels"),
        ({"initialization": "best"}, "initialization"),
    ],
)
def test_bad_options(problem, options, message):
    with pytest.raises(ValueError, match=message):
        sample(KEY, *problem, **options)


def test_bad_data(problem):
    model, params, props, y, u = problem
    with pytest.raises(ValueError, match="emissions: expected shape"):
        sample(KEY, model, params, props, y[:, 0], u)
    with pytest.raises(ValueError, match="inputs: expected the leading axes"):
        sample(KEY, model, params, props, y, u[:-1])
    with pytest.raises(ValueError, match="props"):
        sample(KEY, model, params, props.tokens, y, u)
    free = props._replace(initial=props.initial._replace(mean=props.regression.bias))
    with pytest.raises(ValueError, match="proper prior.*initial.mean"):
        sample(KEY, model, params, free, y, u, variables="initial", algorithm="smc")
    bad = params._replace(regression=params.regression._replace(bias=jnp.array([jnp.nan])))
    with pytest.raises(ValueError, match="finite log posterior"):
        sample(KEY, model, bad, props, y, u, variables=("alpha", "beta"), num_warmup=300)


def test_warnings_say_what_is_wrong(problem):
    options = dict(variables=("alpha", "beta"), progress=False, num_warmup=5, num_samples=20)
    with pytest.warns(RuntimeWarning, match="too few effective draws: below 400 for alpha"):
        draws = ssmlin.sample_posterior(KEY, *problem, **options)
    assert draws.posterior.sizes["draw"] == 20
    shifted = draws.copy(deep=True)
    shifted.posterior["alpha"].values[1] += 1.0
    shifted.sample_stats["diverging"].values[0, :3] = True
    from ssmlin.learning._diagnostics import complaints

    text = " ".join(complaints(shifted, "nuts"))
    assert "3 of 80 transitions diverged" in text and "R-hat is above 1.01 for alpha" in text


def test_sampling_again_does_not_compile_again(problem):
    options = dict(variables=("alpha", "beta"), num_warmup=30, num_samples=20)
    sample(KEY, *problem, **options)
    size = nuts._run._cache_size()
    model, params, props, y, u = problem
    sample(jax.random.key(8), model, params, props, y + 1, u, **(options | {"num_samples": 60}))
    assert size == nuts._run._cache_size()


@pytest.mark.calibration
@pytest.mark.float32
def test_single_precision():
    model, params, props, u = make()
    params, u = jax.tree.map(lambda x: x.astype(jnp.float32), (params, u))
    _, y = model.sample(params, jax.random.key(1), T, u)
    draws = sample(
        KEY, model, params, props, y, u, variables=("alpha", "beta"), num_warmup=300,
        num_samples=100, initialization="pathfinder",
    )  # fmt: skip
    assert draws.posterior["alpha"].dtype == np.float32
    assert int(draws.sample_stats["diverging"].sum()) == 0


SHARED_OUT = """
import jax, jax.numpy as jnp, numpy as np, warnings
import ssmlin
from ssmlin.learning import _nuts as nuts

model = ssmlin.LinearAttentionSSM("mamba2", 1, 1, 2, gates="constant")
rng = np.random.default_rng(0)
y, u = jnp.asarray(rng.normal(size=(2, 20, 1)))
params, props = model.initialize(emissions=y, inputs=u)
assert len(jax.devices()) == 2
warnings.simplefilter("ignore")

def sample():
    draws = ssmlin.sample_posterior(
        jax.random.key(0), model, params, props, y, u, variables="process_noise", num_chains=2,
        num_warmup=30, num_samples=30, trajectories=False, progress=False)
    return draws.posterior["process_noise"].values

spread = nuts.over_devices
used = []
def watched(tree, num_chains):
    tree = spread(tree, num_chains)
    used.append({len(x.sharding.device_set) for x in jax.tree.leaves(tree)})
    return tree
nuts.over_devices = watched
one = sample()
assert used == [{2}], used
nuts.over_devices = lambda tree, num_chains: tree
np.testing.assert_allclose(one, sample(), rtol=1e-6)
"""


@pytest.mark.calibration
def test_chains_are_shared_out_over_devices():
    """On two devices the draws are those of one."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_ENABLE_X64": "1",
    }
    subprocess.run([sys.executable, "-c", SHARED_OUT], check=True, env=environment)


@pytest.mark.calibration
@pytest.mark.parametrize("name", ["gated_deltanet", "mamba2", "deltanet", "bayesian_memory"])
def test_simulation_based_calibration(name):
    """Parameters from the prior, data from them: their ranks among the draws are uniform."""
    model, params, props, u = make(name)
    gates = tuple(f"tokens.{gate}.value" for gate in model.parts.tokens.scalar_gates)
    names = (*gates, "process_noise.scale")
    laws = model.prior_distributions(params)
    num_sets, thin = 60, 4
    simulate = jax.jit(partial(model.sample, num_timesteps=T))
    ranks = {name: [] for name in names}
    keys = jax.random.split(jax.random.key(11), (num_sets, 3))
    for draw_key, data_key, run_key in keys:
        truth = {
            path: laws[path].sample(seed=k)
            for path, k in zip(names, jax.random.split(draw_key, len(names)), strict=True)
        }
        leaves, structure = jax.tree.flatten(params)
        at = [truth.get(path, leaf) for path, leaf in zip(paths(params), leaves, strict=True)]
        _, y = simulate(jax.tree.unflatten(structure, at), data_key, inputs=u)
        draws = sample(
            run_key, model, params, props, y, u, variables=names, num_warmup=250,
            num_samples=125, num_chains=4, trajectories=False,
        )  # fmt: skip
        for path in names:
            values = draws.posterior[ssmlin.learning.variable_name(path)].values
            kept = values[:, ::thin].reshape(-1)
            ranks[path].append((kept < float(truth[path])).mean())
    for path, share in ranks.items():
        share = np.asarray(share)
        assert stats.kstest(share, "uniform").pvalue > 0.01 / len(names), path
        inside = np.sum((share > 0.1) & (share < 0.9))
        assert stats.binomtest(int(inside), num_sets, 0.8).pvalue > 0.01, path
