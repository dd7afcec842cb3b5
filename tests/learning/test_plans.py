"""Many fits in one program: each is what it is by itself, whatever becomes of the others."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dynamax.parameters import ParameterProperties
from tensorflow_probability.substrates.jax import bijectors as tfb
from walk import Walk

from ssmlin import learning
from ssmlin.learning import Fit, carry_out, carry_out_together
from ssmlin.learning import _plans as plans
from ssmlin.learning._epochs import run_epochs

MODEL = Walk()
PROPS = {"drift": ParameterProperties(), "spread": ParameterProperties(True, tfb.Softplus())}
SGD = optax.sgd(0.01, momentum=0.5)
LBFGS = learning.lbfgs()
NUM = 6


def data(number, steps=30):
    """Walks that differ in their drift and their noise."""
    rng = np.random.default_rng(number)
    u = rng.normal(size=(1, steps))
    y = np.cumsum((number - 2) * u + (0.2 + 0.3 * number) * rng.normal(size=u.shape), axis=1)
    return jnp.asarray(y[..., None]), jnp.asarray(u)


def plan(number, optimizer=LBFGS, folder=None, drift=0.0, **options):
    """Two fits: all starts at the same parameters, then the last part is fitted, too."""
    y, u = data(number)
    start = {"drift": jnp.asarray(drift), "spread": jnp.asarray(1.0)}
    options = {"num_epochs": 60, "patience": 3, "optimizer": optimizer} | options
    folders = [None if folder is None else folder / f"{number}-{part}" for part in range(2)]
    first, history = yield Fit(MODEL, start, PROPS, y, u, checkpoint_dir=folders[0], **options)
    if number == 5:
        raise ValueError("the fifth is not fitted twice")
    second, other = yield Fit(
        MODEL, first, PROPS, y, u, validation_fraction=0.0, checkpoint_dir=folders[1], **options
    )
    return first, history, second, other


def assert_same(one, two, rtol=1e-9):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol)


def assert_alike(found, alone):
    """The same parameters and losses; a search goes on among rounding errors at its end."""
    for part in (0, 2):
        assert_same(found[part], alone[part], rtol=1e-6)
        losses = (x[part + 1].losses.min() for x in (found, alone))
        np.testing.assert_allclose(*losses, rtol=1e-9)


@pytest.fixture(scope="module")
def alone():
    """Each plan by itself."""
    return [carry_out(plan(i), "walk", progress=False) for i in range(NUM - 1)]


def test_fits_together_are_those_by_themselves(alone, monkeypatch):
    monkeypatch.setattr(plans, "_LANES", 4)  # so that some have to wait for others
    before = run_epochs._cache_size()
    several = [plan(i, drift=np.nan if i == 2 else 0.0) for i in range(NUM)]
    found = carry_out_together(several, "walk", progress=False)
    # What fails by itself says so, and nothing of it reaches the others.
    assert "finite loss at the start" in str(found[2])
    assert str(found[5]) == "the fifth is not fitted twice"
    lengths = set()
    for i in (0, 1, 3, 4):
        assert_alike(found[i], alone[i])
        lengths |= {len(found[i][1].losses), len(found[i][3].losses)}
    assert len(lengths) > 2  # each stops by itself
    assert run_epochs._cache_size() == before + 1


@pytest.mark.slow
def test_gradient_steps_together_are_those_by_themselves():
    """Epoch by epoch, since they do not enlarge rounding errors."""
    found = carry_out_together([plan(i, SGD) for i in range(3)], "walk", progress=False)
    for i, one in enumerate(found):
        assert_same(one, carry_out(plan(i, SGD), "walk", progress=False))


def test_fits_of_other_shapes_have_programs_of_their_own():
    """One alone in its shape is fitted as always; two more wait until that is done."""

    def one(steps):
        y, u = data(1, steps)
        start = {"drift": jnp.asarray(0.0), "spread": jnp.asarray(1.0)}
        return (yield Fit(MODEL, start, PROPS, y, u, optimizer=SGD, num_epochs=20))

    found = carry_out_together([one(20), one(30), one(20)], "walk", progress=False)
    for steps, result in zip((20, 30, 20), found, strict=True):
        assert_same(result, carry_out(one(steps), "walk", progress=False))


def test_what_was_killed_goes_on_from_where_each_fit_was(alone, tmp_path, monkeypatch):
    def several():
        return [plan(i, folder=tmp_path) for i in range(NUM - 1)]

    monkeypatch.setattr(learning._checkpoint, "_SECONDS_BETWEEN", 0.0)
    advance, calls = plans._Lanes.advance, []

    def until_killed(self):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(plans._Lanes, "advance", until_killed)
    with pytest.raises(KeyboardInterrupt):
        carry_out_together(several(), "walk", progress=False)
    monkeypatch.setattr(plans._Lanes, "advance", advance)
    kept = len(list(tmp_path.iterdir()))
    assert kept >= NUM - 1
    for one, two in zip(carry_out_together(several(), "walk", progress=False), alone, strict=True):
        assert_alike(one, two)
    # All is done: nothing is run again, and a fit by itself reads the same files.
    monkeypatch.setattr(plans, "run_epochs", None)
    for one, two in zip(carry_out_together(several(), "walk", progress=False), alone, strict=True):
        assert_alike(one, two)
    assert_alike(carry_out(plan(0, folder=tmp_path), "walk", progress=False), alone[0])


def test_progress_is_told_by_plans_that_are_done(monkeypatch):
    told = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

        def add_task(self, what, **fields):
            told.append((what, fields["total"], 0))

        def update(self, task, *, completed):
            told.append(completed)

    monkeypatch.setattr(plans, "progress_bar", lambda show: Bar() if show else SimpleNamespace())
    carry_out_together([plan(i) for i in (0, 1, 5)], "walk", progress=True)
    assert told == [("fit walk", 3, 0), 1, 2, 3]
