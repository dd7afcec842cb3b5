"""Calls wherever an executor has its workers: the same results, and what it loses is told."""

import os
import signal
import threading
import time
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ssmlin import _compilation_cache as compilation_cache
from ssmlin.comparison import Candidate, compare_models
from ssmlin.comparison._calls import run_calls
from ssmlin.comparison.baselines._naive import fit_naive
from ssmlin.comparison.collections import Attempt, CollectionModel, compare_collection, hold_out
from ssmlin.comparison.collections._naive import seasonal_naive
from ssmlin.data import Series
from ssmlin.forecasting import fit_attention

SERIES = Series("walk", np.cumsum(np.random.default_rng(0).normal(size=(60, 1)), axis=0),
                np.arange(60), ("y",), "simulated")  # fmt: skip


class Planned(Executor):
    """Does with each submission what the plan says, then runs all others at once.

    "lose" loses its worker, "wait" does not begin, "refuse" takes it no more.
    """

    def __init__(self, *plan):
        self.plan, self.futures = list(plan), []

    def submit(self, function, /, *arguments):
        todo = self.plan.pop(0) if self.plan else "run"
        if todo == "refuse":
            raise BrokenProcessPool("it is broken")
        future = Future()
        self.futures.append(future)
        if todo == "lose":
            future.set_exception(BrokenProcessPool("its process was ended"))
        if todo == "run":
            future.set_result(function(*arguments))
        return future


def twice(what, value):
    if what == "fail":
        raise ValueError(f"no luck with {value}")
    return 2 * value


CALLS = [("a", 1), ("b", 2), ("c", 3)]
LOST = "workers: one was lost with b .BrokenProcessPool: its process was ended.*begins again"


def test_all_results_come_with_their_numbers():
    for workers in (1, Planned(), Planned("run", "run", "run")):
        assert dict(run_calls(twice, CALLS, workers)) == {0: 2, 1: 4, 2: 6}
    assert list(run_calls(twice, [], Planned())) == []


def test_a_call_whose_worker_was_lost_begins_again():
    with pytest.warns(RuntimeWarning, match=LOST):
        assert dict(run_calls(twice, CALLS, Planned("run", "lose"))) == {0: 2, 1: 4, 2: 6}


def results_before(told, executor):
    found = {}
    with pytest.raises(RuntimeError, match=told):
        for number, result in run_calls(twice, CALLS, executor):
            found[number] = result
    return found


def test_what_an_executor_cannot_do_is_told_after_its_results():
    told = "got 2 that were lost with b .BrokenProcessPool: its"
    with pytest.warns(RuntimeWarning, match=LOST):
        assert results_before(told, Planned("run", "lose", "run", "lose")) == {0: 2, 2: 6}
    told = "expected an executor that takes calls until all are done, got BrokenProcessPool: it is"
    assert results_before(told, Planned("run", "lose", "run", "refuse")) == {0: 2, 2: 6}


def test_errors_come_back_and_nothing_more_is_begun():
    executor = Planned("run", "wait", "wait")
    with pytest.raises(ValueError, match="no luck with 3") as caught:
        list(run_calls(twice, [("fail", 3), *CALLS[1:]], executor))
    assert any("in twice" in note for note in caught.value.__notes__)
    assert [one.cancelled() for one in executor.futures] == [False, True, True]


def test_what_is_stopped_is_cancelled():
    executor = Planned("run", "wait", "wait")
    results = run_calls(twice, CALLS, executor)
    assert next(results) == (0, 2)
    results.close()  # as Ctrl-C does
    assert [one.cancelled() for one in executor.futures] == [False, True, True]


def test_what_cannot_be_sent_is_told_at_once():
    executor = Planned("lose")
    with pytest.raises(ValueError, match="workers: expected 1 for models that cannot be sent"):
        list(run_calls(repr, [(lambda: 1,)], executor))
    assert len(executor.futures) == 1


def test_workers_that_are_none():
    with pytest.raises(TypeError, match="workers: expected an integer or a concurrent.futures.Ex"):
        compare_models(SERIES, ["persistence"], workers="two", progress=False)
    with pytest.raises(ValueError, match="workers: expected an integer >= 1, got 0"):
        compare_collection(hold_out([np.arange(9.0)], 2), ["seasonal_naive"], workers=0)


TURN = threading.Lock()


def noisy(train, seed, *, label):
    """The last value, with a warning; two at a time would each see the other's."""
    assert TURN.acquire(blocking=False), "two at a time in one process"
    try:
        warnings.warn(f"of {label}", UserWarning, stacklevel=1)
        time.sleep(0.1)  # so that another one would have the time to begin
        return fit_naive(train, seed)
    finally:
        TURN.release()


def scores(comparison):
    return comparison.to_frame().drop(columns="seconds")


def test_threads_give_the_same_table():
    models = [Candidate(name, noisy, ({"label": name},)) for name in "abc"] + ["autoregression"]
    alone = scores(compare_models(SERIES, models, horizon=3, progress=False))
    filters = list(warnings.filters)
    with ThreadPoolExecutor(3) as executor:
        found = compare_models(SERIES, models, horizon=3, progress=False, workers=executor)
    assert warnings.filters == filters
    assert [result.warnings for result in found.results if result.name == "b"] == [
        ("UserWarning: of b",)
    ]
    pd.testing.assert_frame_equal(scores(found), alone)


def precision(what):
    return str(jnp.zeros(()).dtype)


def test_workers_compute_in_the_precision_of_the_caller():
    with ThreadPoolExecutor(1) as executor:
        for x64, expected in ((True, "float64"), (False, "float32")):
            with jax.enable_x64(x64):
                assert dict(run_calls(precision, [("of",)], executor)) == {0: expected}


def test_workers_elsewhere_have_a_cache_if_their_caller_has_one(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(compilation_cache, "enable_compilation_cache", asked.append)
    monkeypatch.setattr(compilation_cache, "_ours", None)
    list(run_calls(twice, CALLS, Planned()))
    assert asked == []
    # The user's folder is another one on another processor; one that was named is the same.
    for folder, expected in ((compilation_cache.user_folder(), None), (tmp_path, tmp_path)):
        monkeypatch.setattr(compilation_cache, "_ours", folder)
        compilation_cache._enable_once.cache_clear()
        list(run_calls(twice, CALLS, Planned()))
        assert asked == [expected]  # once in a process
        asked.clear()
    compilation_cache._enable_once.cache_clear()


def shifted(collection, seed):
    return Attempt([seasonal_naive(one) + 1 for one in collection])


def test_collections_by_an_executor_and_what_was_kept(tmp_path):
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=30).cumsum() for name in "abcd"}
    collection = hold_out(values, 3, 4, groups={"a": "x", "b": "y", "c": "x", "d": "y"})
    models = ["autoregression", CollectionModel("shifted", shifted)]
    alone = compare_collection(collection, models)
    told, plan = [], ("run", "run", "lose", "refuse")
    with pytest.raises(RuntimeError, match="expected an executor that takes calls"):
        compare_collection(collection, models, folder=tmp_path, workers=Planned(*plan))
    assert len(list(tmp_path.iterdir())) == 0  # it was refused before all were submitted
    with (
        pytest.warns(RuntimeWarning, match="collection x, autoregression"),
        pytest.raises(RuntimeError, match="got 2 that were lost with collection x, autoregression"),
    ):
        plan = ("run", "run", "lose", "run", "run", "run", "lose")
        compare_collection(collection, models, folder=tmp_path, workers=Planned(*plan))
    assert len(list(tmp_path.iterdir())) == 5
    executor = Planned()
    found = compare_collection(
        collection, models, folder=tmp_path, workers=executor, on_progress=told.append
    )
    assert len(executor.futures) == len(told) == 1 and told[0].startswith("collection x, autoreg")
    assert list(found) == list(alone) == ["x", "y", "all"]
    for group, one in found.items():
        assert one.models == alone[group].models
        pd.testing.assert_frame_equal(one.to_frame(), alone[group].to_frame())
        for series, quantiles in zip(
            one.collection, one.forecasts["shifted"].quantiles, strict=True
        ):
            np.testing.assert_array_equal(quantiles, seasonal_naive(series) + 1)


def fit_where_killed(train, seed, *, folder):
    """The last value, for who is killed while it is fitted the first time."""
    try:
        (Path(folder) / "begun").mkdir()
    except FileExistsError:
        return fit_naive(train, seed)
    (Path(folder) / "process.new").write_text(str(os.getpid()))
    (Path(folder) / "process.new").rename(Path(folder) / "process")
    time.sleep(300)
    raise AssertionError("it was not killed")


def candidates(folder):
    """One that is to be killed, and two others."""
    return [
        Candidate("killed", fit_where_killed, ({"folder": str(folder)},)),
        "persistence",
        "autoregression",
    ]


@pytest.fixture
def killer(tmp_path):
    """Kills the process that fits "killed" as soon as another result is there; a list of it."""
    found, over = [], threading.Event()
    kept = tmp_path / "kept"

    def watch():
        while not over.wait(0.05):
            if (tmp_path / "process").exists() and list(kept.glob("*.safetensors")):
                found.append(int((tmp_path / "process").read_text()))
                os.kill(found[0], signal.SIGKILL)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    over.set()
    thread.join()


@pytest.mark.slow
def test_dask_goes_on_where_a_worker_is_killed(tmp_path, killer):
    """Two workers; the scores are those of no executor."""
    distributed = pytest.importorskip("distributed", reason="pip install 'ssmlin[dask]'")
    fit = partial(fit_attention, mechanism="deltanet", num_epochs=10, discounts=(1.0,))
    models = [*candidates(tmp_path), Candidate("deltanet", fit, ({"num_lags": 1},))]
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, scheduler_port=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        before = set(client.run(os.getpid).values())
        found = compare_models(SERIES, models, progress=False,
                               checkpoint_dir=tmp_path / "kept",
                               workers=client.get_executor())  # fmt: skip
    assert len(killer) == 1 and killer[0] in before
    alone = compare_models(SERIES, models, progress=False)
    assert all(result.failure is None for result in alone.results)
    pd.testing.assert_frame_equal(scores(found), scores(alone), check_exact=True)


@pytest.mark.slow
def test_a_pool_that_breaks_is_told_and_the_same_call_goes_on(tmp_path, killer):
    """A pool of processes takes no more calls once one was killed; what was done is kept."""
    call = partial(compare_models, SERIES, candidates(tmp_path), progress=False,
                   checkpoint_dir=tmp_path / "kept")  # fmt: skip
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
        pytest.raises(RuntimeError, match="takes calls until all are done, got BrokenProcessPool"),
    ):
        call(workers=pool)
    assert killer
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").iterdir()}
    found = call()
    assert done and all(file.stat().st_mtime_ns == when for file, when in done.items())
    alone = compare_models(SERIES, candidates(tmp_path), progress=False)
    pd.testing.assert_frame_equal(scores(found), scores(alone), check_exact=True)
