"""Calls in processes: results, errors, and that none is left however it ends."""

import multiprocessing
import os
import signal
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmlin.comparison._processes import run_in_processes


def work(what, value):
    if what == "fail":
        raise ValueError(f"no luck with {value}")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":
        os._exit(3)
    if what == "warn":
        warnings.warn("whose is this?", UserWarning, stacklevel=1)
    if what == "precision":
        return str(jnp.zeros(()).dtype)
    if what == "sleep":
        time.sleep(60)
    # More than a pipe holds, so that sending waits for who reads.
    return np.full(1_000_000, value) if what == "much" else 2 * value


def children():
    return multiprocessing.active_children()


def test_all_results_come_with_their_numbers_and_nothing_else(capfd):
    calls = [("twice", i) for i in range(3)] + [("warn", 3), ("much", 4)]
    found = dict(run_in_processes(work, calls, 2))
    assert [found[i] for i in range(4)] == [0, 2, 4, 6]
    assert capfd.readouterr().err == ""
    assert found[4].shape == (1_000_000,) and (found[4] == 4).all()
    assert list(run_in_processes(work, [], 2)) == [] and not children()


def test_they_compute_in_the_precision_of_the_caller():
    for x64, expected in ((True, "float64"), (False, "float32")):
        with jax.enable_x64(x64):
            assert dict(run_in_processes(work, [("precision", 0)], 2)) == {0: expected}


def test_errors_and_deaths_are_told_and_end_the_others():
    with pytest.raises(ValueError, match="no luck with 3") as caught:
        list(run_in_processes(work, [("fail", 3), ("sleep", 0)], 2))
    assert any("in work" in note for note in caught.value.__notes__)
    assert not children()
    with pytest.raises(RuntimeError, match="exit code -9; fewer"):
        list(run_in_processes(work, [("die", 0), ("sleep", 0)], 2))
    with pytest.raises(RuntimeError, match="exit code 3; .*the script .* must be a file"):
        list(run_in_processes(work, [("leave", 0)], 1))
    assert not children()


def test_one_that_is_stopped_while_it_sends_blocks_nobody():
    results = run_in_processes(work, [("much", 1), ("much", 1), ("sleep", 0)], 2)
    number, found = next(results)  # of either of the first two, whichever began first
    assert number in (0, 1) and (found == 1).all()
    time.sleep(1)  # the other is done, and waits to be read
    stop = threading.Thread(target=results.close)
    stop.start()
    stop.join(timeout=30)
    assert not stop.is_alive() and not children()
