"""Calls of one function in several processes that can be stopped at any moment."""

import os
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.reduction import ForkingPickler

import jax

from ssmlin._compilation_cache import for_other_processes

_KILLED = "fewer of them need less memory"
_NO_START = (
    "they import the script that started them, so it must be a file, with its calls under "
    '`if __name__ == "__main__":`'
)


def run_in_processes[*Arguments, R](
    function: Callable[[*Arguments], R],
    calls: Sequence[tuple[*Arguments]],
    workers: int,
    begun: Callable[[int], None] = lambda number: None,
) -> Iterator[tuple[int, R]]:
    """The number and the result of every call, as they are done.

    However the iteration ends, by an error or by Ctrl-C, no process is left. Each has a pipe of its
    own, since one that is ended while it sends would block all others on a shared one.

    Args:
        function: can be pickled, and so can its arguments and results.
        calls: the arguments of each call.
        workers: the largest number of processes.
        begun: is told the number of each call when a process has it.

    Raises:
        RuntimeError: a process was ended from outside, for example for lack of memory.
        ValueError: arguments that cannot be sent to another process.
    """
    context, prepare, x64 = SpawnContext(), for_other_processes(), jax.config.jax_enable_x64
    left = [(number, packed(arguments)) for number, arguments in enumerate(calls)][::-1]
    processes: dict[Connection, SpawnProcess] = {}
    running: dict[Connection, int] = {}
    try:
        for _ in range(min(workers, len(calls))):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(function, there, prepare, x64), daemon=True
            )
            with share_of_cores(min(workers, len(calls))):
                process.start()
            there.close()  # so that the end of the process is the end of the pipe
            processes[here] = process
        ready = list(processes)
        while ready:
            for here in ready:
                try:
                    answer = here.recv() if here in running else None
                    number = running.pop(here, None)
                    if left:
                        running[here], arguments = left.pop()
                        here.send_bytes(arguments)
                        begun(running[here])
                except (EOFError, ConnectionError):
                    process = processes[here]
                    process.join()
                    killed = process.exitcode is not None and process.exitcode < 0
                    raise RuntimeError(
                        "workers: expected processes that live until they are done, got one ended "
                        f"with exit code {process.exitcode}; {_KILLED if killed else _NO_START}"
                    ) from None
                if answer is not None and number is not None:
                    result, error = answer
                    if error is not None:
                        raise error
                    yield number, result
            ready = _with_answers(list(running))
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


@contextmanager
def share_of_cores(workers: int) -> Iterator[None]:
    """A process that starts inside takes its share of the cores, unless its caller has said.

    Matrices of a state are small, and threads of BLAS that wait for each other cost far more than
    they save: on two busy cores a SARIMAX took 12 times the CPU time. Libraries read these names
    once, when they are loaded.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # of this process, which may have fewer
        cores = len(os.sched_getaffinity(0))
    ours = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    ours["PJRT_NPROC"] = str(max(1, cores // workers))  # threads of JAX
    ours = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _with_answers(running: list[Connection]) -> list[Connection]:
    """The connections that can be read, at least one if there are any."""
    return [one for one in wait(running) if isinstance(one, Connection)] if running else []


def packed(arguments: tuple[object, ...]) -> bytes:
    """The arguments of a call, pickled."""
    try:
        return bytes(ForkingPickler.dumps(arguments))
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(_cannot_be_sent(error)) from error


def _cannot_be_sent(error: Exception) -> str:
    return (
        "workers: expected 1 for models that cannot be sent to another process, got more; classes "
        "and functions of your own are sent by name, so define them at the top of a module that "
        f"can be imported or of the script itself, not in a session or a function ({error})"
    )


def _serve[R](
    function: Callable[..., R], connection: Connection, prepare: Callable[[], None], x64: bool
) -> None:
    """Answer calls until there are no more, each with its result or its error."""
    # Warnings come with the results; a line printed by another process does not say whose it is.
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this
    prepare()
    while True:
        try:
            received = connection.recv_bytes()
        except EOFError:
            return
        try:
            arguments = pickle.loads(received)  # noqa: S301
        except Exception as error:
            connection.send((None, ValueError(_cannot_be_sent(error))))
            continue
        connection.send(answer(function, arguments, x64))


def answer[*Arguments, R](
    function: Callable[[*Arguments], R], arguments: tuple[*Arguments], x64: bool
) -> tuple[R | None, Exception | None]:
    """The result of a call, or its error, in the precision of the process that asks for it."""
    try:
        with jax.enable_x64(x64):
            return function(*arguments), None
    except Exception as error:
        error.add_note(f"in a process of its own:\n{traceback.format_exc()}")
        return None, error
