"""A mechanism of one's own, with gates of new names, does what those of the family do."""

import dataclasses
import pickle
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import kalman
from tensorflow_probability.substrates.jax import distributions as tfd

import ssmlin
from ssmlin.comparison import _registry as registry
from ssmlin.comparison._processes import run_in_processes
from ssmlin.forecasting import fit_attention
from ssmlin.forecasting._interface import Observed
from ssmlin.learning import variable_name
from ssmlin.learning._log_posterior import choose, paths
from ssmlin.lgssm import DPLR, LowRank
from ssmlin.mechanisms import Gate, Mechanism, Tokens, diagonal_transition
from ssmlin.mechanisms._registry import check_declaration

pytestmark = pytest.mark.usefixtures("own_mechanisms")
RNG = np.random.default_rng(0)
T, M, D = 7, 2, 3


@dataclasses.dataclass(frozen=True)
class Mine(Mechanism):
    """Columns forget, then a share of what lies under an address is taken away."""

    scale: float = 1.0

    name = "mine"
    transition_formula = "diag(forget) − share address addressᵀ"
    drift_formula = "scale v kᵀ"
    step_rank = 1
    gates = {
        "forget": Gate("decay", per="column", low=0.2, high=0.9),
        "address": Gate("key", per="column"),
        "share": Gate("rate", high=0.5, signed=(0.0, 1.5)),
        "level": Gate("rate", low=1.0, high=3.0, start=2.0),
    }

    def transition(self, tokens):
        address = tokens.address[..., None]
        return DPLR(tokens.forget, address, tokens.share[..., None, None] * address)

    def drift(self, tokens):
        right = (tokens.level * self.scale)[..., None] * tokens.keys
        return LowRank(tokens.values[..., None], right[..., None])


class Plain(Mechanism):
    name = "plain_sum"
    transition_formula, drift_formula = "g I", "v kᵀ"
    gates = {"forget": Gate("decay")}

    def transition(self, tokens):
        return diagonal_transition(jnp.broadcast_to(tokens.forget[..., None], tokens.keys.shape))

    def drift(self, tokens):
        return LowRank(tokens.values[..., None], tokens.keys[..., None])


def random_tokens():
    return {
        "keys": RNG.normal(size=(T, D)), "values": RNG.normal(size=(T, M)),
        "queries": RNG.normal(size=(T, D)), "forget": RNG.uniform(0.2, 0.9, size=(T, D)),
        "address": RNG.normal(size=(T, D)), "share": RNG.uniform(0, 0.5, size=T),
        "level": RNG.uniform(1, 3, size=T),
    }  # fmt: skip


def operators(x, scale=1.0):
    a = [np.diag(f) - s * np.outer(r, r)
         for f, s, r in zip(x["forget"], x["share"], x["address"], strict=True)]  # fmt: skip
    b = [scale * c * np.outer(v, k)
         for c, v, k in zip(x["level"], x["values"], x["keys"], strict=True)]  # fmt: skip
    return np.stack(a), np.stack(b)


def series(steps=40):
    return jnp.sin(0.4 * jnp.arange(steps))[:, None] + 0.1 * RNG.normal(size=(steps, 1))


@pytest.mark.parametrize("method", ["sequential", "associative", "chunked"])
def test_recurrence_is_that_of_a_plain_loop(method):
    ssmlin.register_mechanism(Mine)
    tokens = random_tokens()
    state, expected = np.zeros((M, D)), []
    for a, b, query in zip(*operators(tokens), tokens["queries"], strict=True):
        state = state @ a + b
        expected.append(state @ query)
    found = ssmlin.linear_attention("mine", **tokens, method=method)
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-11)


def test_filter_is_that_of_a_plain_loop_and_own_settings_count():
    x = random_tokens()
    y = RNG.normal(size=(T, M))
    lgssm = ssmlin.matrix_lgssm(Mine(scale=2.0), **x, process_noise=0.1, emission_noise=0.3)
    a, b = operators(x, scale=2.0)
    noise = np.broadcast_to(0.1 * np.eye(D), (T, D, D))
    expected = kalman(a, b, noise, x["queries"], np.full(T, 0.3), np.zeros((M, D)), np.eye(D),
                      np.eye(M), y)  # fmt: skip
    found = ssmlin.matrix_lgssm_filter(lgssm, y)
    np.testing.assert_allclose(found.filtered_means, expected["fm"], atol=1e-9)
    np.testing.assert_allclose(found.log_predictive, expected["log"], atol=1e-9)


def test_gates_are_arguments_with_ranges():
    x = random_tokens()
    for name, value, expected in [
        ("forget", 0.95, r"forget: expected values in \[0.2, 0.9\], got 0.95"),
        ("level", 0.5, r"level: expected values in \[1, 3\]"),
        ("share", 1.2, r"share: expected values in \[0, 0.5\]"),
        ("share", np.full((T, D), 0.1), r"share: expected a scalar or shape \(T\)"),
        ("address", None, "address: expected an array for 'mine', got None"),
        ("alpha", 0.5, "alpha: expected nothing, 'mine' uses forget, address, share, level"),
    ]:
        with pytest.raises(ValueError, match=expected):
            ssmlin.linear_attention(Mine(), **x | {name: value})
    assert Mine.signed_gate == "share" and Plain.signed_gate is None
    ssmlin.linear_attention(Mine(negative_eigenvalues=True), **x | {"share": 1.2})
    with pytest.raises(ValueError, match="negative_eigenvalues: expected False for 'plain_sum'"):
        Plain(negative_eigenvalues=True)
    with pytest.raises(ValueError, match="negative_eigenvalues: expected it of the mechanism"):
        ssmlin.linear_attention(Mine(), **x, negative_eigenvalues=True)


@pytest.fixture(scope="module")
def fitted():
    """A model of an instance, nothing registered, that writes something."""
    y = series()
    model = ssmlin.LinearAttentionSSM(Mine(scale=1.5), 1, 2, D, num_lags=2)
    u = model.compute_inputs(y)
    params, props = model.initialize(emissions=y, inputs=u)
    values = jax.tree.map(lambda x: x + 0.3, params.tokens.values)
    return model, params._replace(tokens=params.tokens._replace(values=values)), props, y, u


def test_gates_are_parameters_by_their_names(fitted):
    model, params, props, y, u = fitted
    dynamics = params.tokens
    assert dynamics.forget.value.shape == (D,) and dynamics.forget.weights.shape == (D, 2)
    assert dynamics.share.value.shape == () and dynamics.address.weights.shape == (D, 2)
    assert "tokens.forget.value" in paths(params)
    # So variables=("forget",) names them for a posterior, in which the gate has its own name.
    assert choose(params, props, ["forget"]) == ("tokens.forget.value", "tokens.forget.weights")
    assert variable_name("tokens.forget.value") == "forget"
    with pytest.raises(AttributeError, match="the gates .*address, forget.*got 'alpha'"):
        dynamics.alpha  # noqa: B018
    start, _ = model.initialize()
    values = [start.tokens.gates[name].value for name in ("forget", "share", "level")]
    for found, expected in zip(values, (0.2 + 0.95 * 0.7, 0.3 * 0.5, 2.0), strict=True):
        np.testing.assert_allclose(found, expected)
    # Two rates of one shape start with weights of their own.
    assert not np.allclose(start.tokens.share.weights, start.tokens.level.weights)
    fixed = params._replace(
        tokens=dynamics._replace(
            level=dynamics.level._replace(value=jnp.asarray(2.5), weights=jnp.zeros(2))
        )
    )
    gates = model.gate_values(fixed, u)
    np.testing.assert_allclose(gates["level"], 2.5, rtol=1e-12)
    assert gates["forget"].shape == (40, D)
    assert gates["forget"].min() > 0.2 and gates["forget"].max() < 0.9
    lgssm = model.to_lgssm(fixed, u)
    tokens = {
        "forget": gates["forget"], "share": gates["share"], "level": gates["level"],
        "address": u @ dynamics.address.weights.T + dynamics.address.bias,
        "values": u @ dynamics.values.weights.T + dynamics.values.bias,
    }  # fmt: skip
    keys = u @ dynamics.keys.weights.T + dynamics.keys.bias
    tokens["keys"] = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    a, b = operators(tokens, scale=1.5)
    np.testing.assert_allclose(lgssm.to_dense()["A"], a, atol=1e-10)
    np.testing.assert_allclose(lgssm.to_dense()["B"], b, atol=1e-10)


def test_priors_follow_the_kind_and_the_interval(fitted):
    model, params, *_ = fitted
    laws = model.prior_distributions(params)
    prior, gates = model.prior, params.tokens
    for name, shape, low, high in [
        ("forget", prior.decay_concentrations, 0.2, 0.9),
        ("level", prior.rate_concentrations, 1.0, 3.0),
    ]:
        x = gates.gates[name].value
        expected = tfd.Beta(*shape).log_prob((x - low) / (high - low)) - np.log(high - low)
        np.testing.assert_allclose(
            laws[f"tokens.{name}.value"].log_prob(x), expected.sum(), rtol=1e-5
        )
    expected = tfd.Normal(0.0, prior.key_scale).log_prob(gates.address.weights).sum()
    found = laws["tokens.address.weights"].log_prob(gates.address.weights)
    np.testing.assert_allclose(found, expected)


def test_gates_that_are_constants_of_a_mechanism():
    class Constant(Plain):
        name = "constant"
        gates = {"forget": Gate("decay", start=0.7, trainable=False)}

    model = ssmlin.LinearAttentionSSM(Constant(), 1, 1, 2)
    params, props = model.initialize()
    assert float(params.tokens.forget.value) == pytest.approx(0.7)
    assert params.tokens.forget.weights is None
    assert not props.tokens.forget.value.trainable


def test_files_hold_the_name_and_the_settings(fitted, tmp_path):
    model, params, props, y, u = fitted
    path = tmp_path / "m"
    with pytest.raises(ValueError, match=r"mechanism: .*; ssmlin.register_mechanism\(Mine\)"):
        model.save(path, params)
    assert not list(tmp_path.iterdir())
    ssmlin.register_mechanism(Mine)
    model.save(path, params, props)
    loaded, loaded_params, _ = ssmlin.load(path)
    assert loaded.mechanism == Mine(scale=1.5) and repr(loaded) == repr(model)
    assert jax.tree.structure(loaded_params) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded_params), strict=True):
        np.testing.assert_array_equal(a, b)
    ahead = [m.forecast(params, y, u, horizon=2, key=jax.random.key(0), num_samples=50).means
             for m in (model, loaded)]  # fmt: skip
    np.testing.assert_array_equal(*ahead)
    again = pickle.loads(pickle.dumps(params))
    np.testing.assert_array_equal(again.tokens.forget.value, params.tokens.forget.value)


def test_a_file_of_a_mechanism_that_is_not_registered(fitted, tmp_path):
    model, params, *_ = fitted
    with pytest.MonkeyPatch.context() as patch:
        known = dict(ssmlin.MECHANISMS) | {"mine": Mine}
        patch.setattr("ssmlin.models._files.MECHANISMS", known)
        model.save(tmp_path / "m", params)
    with pytest.raises(
        ValueError, match="of a registered mechanism, got one of 'mine'.*register_mech"
    ):
        ssmlin.load(tmp_path / "m")


def test_instances_are_values():
    assert Mine() == Mine() and Mine() != Mine(scale=2.0) and Mine() != Plain()
    assert len({Mine(), Mine(), Mine(scale=2.0), Mine(negative_eigenvalues=True), Plain()}) == 4
    assert pickle.loads(pickle.dumps(Mine(scale=2.0))) == Mine(scale=2.0)
    for cls in ssmlin.MECHANISMS.values():
        assert cls() == cls() and hash(cls()) == hash(cls())
        check_declaration(cls)


def test_names():
    before = list(ssmlin.MECHANISMS)
    assert ssmlin.register_mechanism(Plain) is Plain
    assert ssmlin.register_mechanism(Plain) is Plain
    assert list(ssmlin.MECHANISMS) == [*before, "plain_sum"]
    with pytest.raises(ValueError, match="name: expected one that is not taken, got 'plain_sum'"):
        ssmlin.register_mechanism(type("Other", (Plain,), {}))
    with pytest.raises(ValueError, match="name: .*'mamba2' for Mine2.*Mamba2"):
        ssmlin.register_mechanism(type("Mine2", (Plain,), {"name": "mamba2"}))
    # A module that is run again replaces its class.
    again = type("Plain", (Plain,), {"__module__": Plain.__module__})
    assert ssmlin.register_mechanism(again) is ssmlin.MECHANISMS["plain_sum"] is again
    with pytest.raises(ValueError, match="'nothing'; one of your own is first registered"):
        ssmlin.LinearAttentionSSM("nothing")


@pytest.mark.parametrize(
    ("changed", "error", "expected"),
    [
        ({"name": ""}, ValueError, "Wrong.name: expected a text, got ''"),
        ({"name": "two words"}, ValueError, "Wrong.name: expected letters.*'two words'"),
        ({"drift_formula": None}, ValueError, "Wrong.drift_formula: expected a text, got None"),
        ({"gates": ("forget",)}, ValueError, "Wrong.gates: expected names with their kinds"),
        ({"gates": {"forget": (0, 1)}}, ValueError, r"Wrong.gates\['forget'\]: expected .*Gate"),
        ({"gates": {"keys": Gate("rate")}}, ValueError, "names that no argument .*got 'keys'"),
        ({"gates": {"noise": Gate("rate")}}, ValueError, "names that no argument .*got 'noise'"),
        ({"gates": {"x_t": Gate("rate")}}, ValueError, "names that no argument .*got 'x_t'"),
        ({"gates": {"a b": Gate("rate")}}, ValueError, "names that can be arguments, got 'a b'"),
        ({"transition": Mechanism.transition}, TypeError, "Wrong: expected the methods transition"),
    ],
)
def test_wrong_declarations(changed, error, expected):
    wrong = type("Wrong", (Plain,), {"name": "wrong"} | changed)
    with pytest.raises(error, match=expected):
        ssmlin.register_mechanism(wrong)
    assert "wrong" not in ssmlin.MECHANISMS
    if error is ValueError:  # and so where it is used unregistered
        with pytest.raises(error, match=expected):
            ssmlin.LinearAttentionSSM(wrong())


def test_what_is_no_class_of_a_mechanism():
    for what in (Plain(), "plain_sum", Tokens, None):
        with pytest.raises(TypeError, match="mechanism: expected a subclass of .*Mechanism, got"):
            ssmlin.register_mechanism(what)

    @dataclasses.dataclass(frozen=True)
    class Wanting(Plain):
        size: int = dataclasses.field(kw_only=True)

    with pytest.raises(TypeError, match="Wanting: expected defaults for all its fields"):
        ssmlin.register_mechanism(Wanting)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"kind": "gate"}, "kind: expected one of 'decay', 'rate', 'key', got 'gate'"),
        (
            {"kind": "rate", "per": "head"},
            "per: expected one of 'token', 'step', 'column', 'row', got 'head'",
        ),
        ({"kind": "rate", "low": 1.0}, "low: expected finite bounds low < high, got 1.0, 1.0"),
        ({"kind": "rate", "high": np.inf}, "low: expected finite bounds"),
        ({"kind": "rate", "signed": (0.5, 2.0)}, r"signed: expected an interval around \[0.0, 1.0"),
        ({"kind": "decay", "start": 1.0}, r"start: expected a number in \(0.0, 1.0\), got 1.0"),
        ({"kind": "key"}, "kind: expected no more than per='column' for a key"),
    ],
)
def test_wrong_gates(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        Gate(**arguments)


@pytest.mark.parametrize(
    ("method", "error", "expected"),
    [
        # These would be broadcast by the recurrence, and be another model for the filter.
        (
            {"transition": lambda self, x: diagonal_transition(x.forget[..., None])},
            ValueError,
            r"Wrong.transition: expected diag of shape \(T, ...\) = \(7, 3\) .*, got \(7, 1\)",
        ),
        (
            {"drift": lambda self, x: LowRank(x.values[..., :1, None], x.keys[..., None])},
            ValueError,
            r"Wrong.drift: expected left of shape .* = \(7, 2, 1\) .*, got \(7, 1, 1\)",
        ),
        ({"step_rank": 1}, ValueError, r"expected left .* step_rank = 1, got \(7, 3, 0\)"),
        ({"drift": lambda self, x: x.keys}, TypeError, "Wrong.drift: expected a LowRank, got"),
    ],
)
def test_operators_of_wrong_shapes(method, error, expected):
    x = {name: x for name, x in random_tokens().items() if name in ("keys", "values", "queries")}
    with pytest.raises(error, match=expected):
        ssmlin.linear_attention(type("Wrong", (Plain,), method)(), **x, forget=0.5)


# ------------------------------------------------------------------------------ comparisons


def forecasters(*models):
    return registry.forecasters(Observed.of(np.asarray(series(30))), models)


def test_what_is_compared():
    ssmlin.register_mechanism(Plain)
    found = forecasters("persistence", "plain_sum", Plain(), Mine(scale=2.0), "average")
    assert [one.name for one in found] == ["persistence", "plain_sum", "mine"]
    assert found[2].fit.keywords["mechanism"] == Mine(scale=2.0)
    assert {"plain_sum", "mamba2"} <= {one.name for one in forecasters("all")}
    with pytest.raises(ValueError, match="models: expected different names, got two models 'mine'"):
        forecasters(Mine(), Mine(scale=2.0))
    lds = type("Lds", (Plain,), {"name": "lds"})
    with pytest.raises(ValueError, match="models: expected mechanisms whose names no other.*'lds'"):
        forecasters(lds())
    with pytest.raises(ValueError, match="models: expected names among all.*got 'mine'"):
        forecasters("mine")
    with pytest.raises(TypeError, match="models: expected names, Mechanisms or Candidates, got"):
        ssmlin.compare(series(30), models=[Plain], progress=False)


def test_what_cannot_be_kept_is_told_before_the_fits(tmp_path):
    with pytest.raises(ValueError, match=r"mechanism: .*ssmlin.register_mechanism\(Plain\)"):
        ssmlin.compare(series(30), models=Plain(), checkpoint_dir=tmp_path, progress=False)


@pytest.mark.slow
def test_compare_in_processes(monkeypatch):
    quick = partial(fit_attention, num_epochs=2, discounts=(1.0,))
    monkeypatch.setattr(registry, "fit_attention", quick)
    table = ssmlin.compare(
        np.asarray(series(30)), models=[Plain(), "persistence"], workers=2, progress=False
    )
    assert set(table.model) == {"plain_sum", "persistence"}
    assert (table.failure == "").all() and np.isfinite(table.log_density).all()


def test_what_another_process_cannot_find(monkeypatch):
    local = type("Local", (Plain,), {"__qualname__": "test.<locals>.Local"})
    with pytest.raises(ValueError, match="workers: expected 1 for models that cannot be sent"):
        list(run_in_processes(repr, [(local(),)], 2))
    lost = type("Lost", (Plain,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Lost", lost, raising=False)
    with pytest.raises(ValueError, match="workers: expected 1 for models .*at the top of a module"):
        list(run_in_processes(repr, [(lost(),)], 2))
