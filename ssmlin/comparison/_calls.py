"""Calls of one function: here, in processes of their own, or where an executor has its workers."""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import partial

import jax
import numpy as np

from ssmlin import _checks
from ssmlin._compilation_cache import for_other_machines
from ssmlin.comparison._processes import answer, packed, run_in_processes, share_of_cores

#: What runs the calls: so many at a time, or an executor.
Workers = int | Executor
#: A call whose worker was lost is submitted so often; what kills every worker must come to an end.
_MAX_SUBMISSIONS = 2
#: The calls of an executor that run in one process take turns, also where it has several threads:
#: warnings are caught, and the time of the processor is taken, for a whole process.
_TURN = threading.RLock()


def check_workers(workers: object) -> None:
    """Raise TypeError or ValueError if `workers` is neither an executor nor at least 1."""
    if not isinstance(workers, int | np.integer | Executor):
        raise TypeError(
            "workers: expected an integer or a concurrent.futures.Executor, got "
            f"{_checks.describe(workers)}"
        )
    if not isinstance(workers, Executor):
        _checks.positive_int("workers", workers)


def run_calls[*Arguments, R](
    function: Callable[[*Arguments], R],
    calls: Sequence[tuple[*Arguments]],
    workers: Workers,
    begun: Callable[[int], None] = lambda number: None,
) -> Iterator[tuple[int, R]]:
    """The number and the result of every call, as they are done.

    However the iteration ends, nothing more is begun; processes of their own are ended, too.

    Args:
        function: unless it runs here, it can be pickled, and so can its arguments and results.
        calls: the arguments of each call; `str` of the first says which call it is.
        workers: 1: one by one, here; more: so many processes of their own; an executor: wherever
            it has its workers.
        begun: is told the number of each call that begins. An executor does not tell.

    Raises:
        RuntimeError: a process was ended from outside, for example for lack of memory; with an
            executor, twice in the same call, or it takes no more calls.
        ValueError: arguments that cannot be sent to another process.
    """
    if isinstance(workers, Executor):
        return _run_by_executor(function, calls, workers)
    if workers == 1:
        return _run_here(function, calls, begun)
    return run_in_processes(function, calls, workers, begun)


def _run_here[*Arguments, R](
    function: Callable[[*Arguments], R],
    calls: Sequence[tuple[*Arguments]],
    begun: Callable[[int], None],
) -> Iterator[tuple[int, R]]:
    for number, arguments in enumerate(calls):
        begun(number)
        yield number, function(*arguments)


def _run_by_executor[*Arguments, R](
    function: Callable[[*Arguments], R], calls: Sequence[tuple[*Arguments]], executor: Executor
) -> Iterator[tuple[int, R]]:
    """Submit all calls; those of a worker that was lost once more."""
    task: Callable[[tuple[*Arguments]], tuple[R | None, Exception | None]]
    task = partial(_answer_there, function, jax.config.jax_enable_x64, for_other_machines())
    submissions = [0] * len(calls)
    running: dict[Future[tuple[R | None, Exception | None]], int] = {}

    def submit(number: int) -> None:
        submissions[number] += 1
        try:
            with share_of_cores(len(calls)):  # of processes that it starts only now
                running[executor.submit(task, calls[number])] = number
        except Exception as error:  # a pool is broken or was shut down, a scheduler is gone
            packed(calls[number])  # ValueError, if that is why
            raise RuntimeError(
                "workers: expected an executor that takes calls until all are done, got "
                f"{_named(error)}"
            ) from error

    def submit_again(number: int, reason: Exception) -> None:
        packed(calls[number])  # ValueError, if that is why
        lost = f"{_title(calls[number])} ({_named(reason)})"
        if submissions[number] == _MAX_SUBMISSIONS:
            raise RuntimeError(
                f"workers: expected workers that live until they are done, got {_MAX_SUBMISSIONS} "
                f"that were lost with {lost}; each needs enough memory and the same packages"
            ) from reason
        submit(number)
        warnings.warn(
            f"workers: one was lost with {lost}, which begins again", RuntimeWarning, stacklevel=3
        )

    try:
        for number in range(len(calls)):
            submit(number)
        while running:
            lost: list[tuple[int, Exception]] = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                try:
                    result, error = future.result()
                except Exception as reason:  # not of the call, whose error is part of its answer
                    lost.append((number, reason))
                    continue
                if error is not None:
                    raise error
                yield number, result  # type: ignore[misc]  # there is one, since no error
            for one in lost:  # after the results, which are kept if the executor cannot go on
                submit_again(*one)
    finally:
        for future in running:
            future.cancel()


def _title(arguments: tuple[object, ...]) -> str:
    return str(arguments[0])


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _answer_there[*Arguments, R](
    function: Callable[[*Arguments], R],
    x64: bool,
    prepare: Callable[[], object],
    arguments: tuple[*Arguments],
) -> tuple[R | None, Exception | None]:
    """The answer of a call in a worker of an executor."""
    with _TURN:
        prepare()
        return answer(function, arguments, x64)
