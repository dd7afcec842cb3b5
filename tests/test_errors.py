"""Bad input gets an error that names the argument, what was expected and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GATES, MECHANISMS, SIGNED, random_tokens

import ssmlin
from ssmlin.lgssm import DiagPlusLowRank

pytestmark = pytest.mark.quick

GOOD = random_tokens("gated_deltanet", steps=5, d=3, m=2)
FUNCTIONS = [ssmlin.linear_attention, ssmlin.matrix_lgssm]


def changed(**arguments):
    return GOOD | arguments


CASES = [
    (
        changed(keys=np.ones((5, 3, 1))),
        ValueError,
        r"keys: expected shape \(T, d\).*got \(5, 3, 1\)",
    ),
    (
        changed(values=np.ones((4, 2))),
        ValueError,
        r"values: expected shape \(T, m\) with T = 5.*\(4, 2\)",
    ),
    (
        changed(queries=np.ones((5, 4))),
        ValueError,
        r"queries: expected shape .*d = 3, got \(5, 4\)",
    ),
    (changed(alpha=np.full(5, 1.5)), ValueError, r"alpha: expected values in \[0, 1\], got 1.5 at"),
    (changed(alpha=-0.1), ValueError, r"alpha: expected values in \[0, 1\]"),
    (changed(beta=np.full(4, 0.5)), ValueError, r"beta: expected a scalar or shape \(T\) = \(5,\)"),
    (
        changed(beta=np.full(5, np.nan)),
        ValueError,
        "beta: expected finite values, got nan at index",
    ),
    (changed(keys=np.full((5, 3), np.inf)), ValueError, "keys: expected finite values, got inf"),
    (changed(keys=np.ones((0, 3))), ValueError, "keys: expected T >= 1"),
    (
        changed(keys=np.ones((5, 3), np.float16)),
        TypeError,
        "keys: expected a float32 or float64.*float16",
    ),
    (
        changed(values=np.ones((5, 2), int)),
        TypeError,
        "values: expected a float32 or float64.*int64",
    ),
    (changed(alpha=None), ValueError, "alpha: expected an array for 'gated_deltanet', got None"),
    (changed(decay=np.ones((5, 3))), ValueError, "decay: expected nothing, 'gated_deltanet' uses"),
    (changed(values=None), ValueError, "values: expected an array"),
    (changed(queries=None), ValueError, "queries: expected an array"),
    (changed(keys=None), TypeError, "keys: expected a float32 or float64 array, got None"),
    (changed(keys="text"), TypeError, "keys: expected a float32 or float64 array, got str"),
    (
        changed(negative_eigenvalues=True, beta=2.5),
        ValueError,
        r"beta: expected values in \[0, 2\]",
    ),
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_tokens(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function("gated_deltanet", **arguments)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_mechanism(function):
    with pytest.raises(ValueError, match="mechanism: expected one of vanilla, .*got 'transformer'"):
        function("transformer", **GOOD)
    with pytest.raises(TypeError, match="mechanism: expected a name or a Mechanism, got int"):
        function(3, **GOOD)
    plain = {k: v for k, v in GOOD.items() if k not in ("alpha", "beta")}
    with pytest.raises(ValueError, match="negative_eigenvalues: expected False for 'vanilla'"):
        function("vanilla", **plain, negative_eigenvalues=True)


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_gate_is_required_and_has_its_range(name):
    tokens = random_tokens(name)
    for gate in GATES[name]:
        with pytest.raises(ValueError, match=f"{gate}: expected"):
            ssmlin.matrix_lgssm(name, **{k: v for k, v in tokens.items() if k != gate})
        if gate != "removal_key":
            for bad in (-1.01 if SIGNED.get(name) == gate else -0.01, 2.01):
                with pytest.raises(ValueError, match=f"{gate}: expected values in"):
                    ssmlin.matrix_lgssm(
                        name,
                        **tokens | {gate: bad},
                        negative_eigenvalues=name in SIGNED,
                    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"process_noise": -0.1}, ValueError, "process_noise: expected values >= 0, got -0.1"),
        (
            {"process_noise": np.ones((5, 4))},
            ValueError,
            "process_noise: expected a scalar or shape",
        ),
        (
            {"process_noise": np.ones(7)},
            ValueError,
            r"process_noise: .*\(T,\) = \(5,\).*got \(7,\)",
        ),
        (
            {"process_noise": DiagPlusLowRank(jnp.ones((4, 3)), jnp.ones((4, 3, 1)))},
            ValueError,
            "process_noise.diag",
        ),
        ({"write_noise": -1.0}, ValueError, "write_noise: expected values >= 0"),
        ({"emission_noise": -1.0}, ValueError, "emission_noise: expected values >= 0"),
        (
            {"emission_noise": np.ones((5, 2))},
            ValueError,
            "emission_noise: expected a scalar or shape",
        ),
        ({"initial_mean": np.ones((3, 2))}, ValueError, r"initial_mean: expected shape \(m, d\)"),
        ({"initial_cov": np.ones((2, 2))}, ValueError, r"initial_cov: expected shape \(d, d\)"),
        ({"initial_cov": -np.eye(3)}, ValueError, "initial_cov: expected a positive semidefinite"),
        (
            {"initial_cov": np.triu(np.ones((3, 3)))},
            ValueError,
            "initial_cov: expected a symmetric",
        ),
        ({"row_cov": np.zeros((2, 2))}, ValueError, "row_cov: expected a positive definite"),
        ({"row_cov": np.ones(3)}, ValueError, r"row_cov: expected a scalar or shape \(m\)"),
        ({"emission_bias": np.ones((4, 2))}, ValueError, "emission_bias: expected"),
        ({"value_dim": 3}, ValueError, "value_dim: expected 2 as in values, got 3"),
        ({"value_dim": 2.5}, TypeError, "value_dim: expected an integer"),
    ],
)
def test_the_constructor(options, error, message):
    with pytest.raises(error, match=message):
        ssmlin.matrix_lgssm("gated_deltanet", **GOOD | options)


def test_ambiguous_process_noise():
    tokens = random_tokens("gla", steps=3, d=3)
    with pytest.raises(ValueError, match=r"process_noise: expected shape \(T, 1\) or \(1, d\)"):
        ssmlin.matrix_lgssm("gla", **tokens, process_noise=np.ones(3))
    per_step = ssmlin.matrix_lgssm("gla", **tokens, process_noise=np.arange(3.0)[:, None])
    np.testing.assert_array_equal(per_step.process_noise.diag[:, 0], np.arange(3.0))


def test_bayesian_memory_needs_the_number_of_rows():
    with pytest.raises(ValueError, match="value_dim: expected the number of rows"):
        ssmlin.matrix_lgssm("bayesian_memory", keys=np.ones((5, 3)), alpha=1.0)
    by_mean = ssmlin.matrix_lgssm(
        "bayesian_memory", keys=np.ones((5, 3)), decay=np.ones((5, 3)), initial_mean=np.ones((2, 3))
    )
    assert by_mean.value_dim == 2
    np.testing.assert_array_equal(by_mean.readout, np.ones((5, 3)))


@pytest.mark.parametrize("function", [ssmlin.matrix_lgssm_filter, ssmlin.matrix_lgssm_smoother])
def test_inference(function):
    lgssm = ssmlin.matrix_lgssm("gated_deltanet", **GOOD)
    y = np.zeros((5, 2))
    for bad, error, message in (
        (np.zeros((5, 3)), ValueError, r"emissions: expected shape \(T, m\)"),
        (np.zeros((4, 2)), ValueError, "emissions: expected shape"),
        (np.full((5, 2), np.inf), ValueError, "emissions: expected finite values or NaN"),
        (np.zeros((5, 2), int), TypeError, "emissions: expected a float32 or float64"),
    ):
        with pytest.raises(error, match=message):
            function(lgssm, bad)
    with pytest.raises(TypeError, match="lgssm: expected a MatrixLGSSM, got dict"):
        function({}, y)
    with pytest.raises(ValueError, match="method: expected one of 'auto', 'sequential'"):
        function(lgssm, y, method="fastest")
    with pytest.raises(ValueError, match="store: expected one of"):
        function(lgssm, y, store="everything")
    with pytest.raises(ValueError, match="missing: expected one of"):
        function(lgssm, y, missing="some")
    with pytest.raises(TypeError, match="mask: expected a boolean array"):
        function(lgssm, y, mask=np.ones(5))
    with pytest.raises(ValueError, match="mask: expected shape"):
        function(lgssm, y, mask=np.ones(4, bool))
    with pytest.raises(ValueError, match="length: expected 0 <= length <= T = 5, got 6"):
        function(lgssm, y, length=6)


def test_sampling():
    lgssm = ssmlin.matrix_lgssm("gated_deltanet", **GOOD)
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 1, got 0"):
        ssmlin.matrix_lgssm_posterior_sample(jax.random.key(0), lgssm, np.zeros((5, 2)), 0)
    with pytest.raises(TypeError, match="num_samples: expected an integer"):
        ssmlin.matrix_lgssm_sample(jax.random.key(0), lgssm, 1.5)


def test_options_of_the_recurrence():
    with pytest.raises(ValueError, match="method: expected one of 'auto', 'sequential', 'assoc"):
        ssmlin.linear_attention("gated_deltanet", **GOOD, method="parallel")
    with pytest.raises(ValueError, match="multi_step: expected one of"):
        ssmlin.linear_attention("gated_deltanet", **GOOD, multi_step="both")
    with pytest.raises(ValueError, match="initial_state: expected shape"):
        ssmlin.linear_attention("gated_deltanet", **GOOD, initial_state=np.ones((3, 3)))


def test_values_are_not_looked_at_under_a_trace():
    out = jax.jit(lambda a: ssmlin.linear_attention("gated_deltanet", **GOOD | {"alpha": a}))(
        jnp.full(5, 1.5)
    )
    assert np.isfinite(out).all()


def test_lagged_inputs():
    with pytest.raises(ValueError, match="num_lags: expected an integer >= 1, got 0"):
        ssmlin.lagged_inputs(np.ones((4, 1)), 0)
    with pytest.raises(ValueError, match="prev_emissions: expected shape"):
        ssmlin.lagged_inputs(np.ones((4, 1)), 2, np.ones((3, 1)))
