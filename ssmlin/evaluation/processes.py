"""Calls of one function in several processes that can be stopped at any moment."""

import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any


def run_in_processes(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[int, Any]]:
    """The number and the result of every call, as they are done.

    However the iteration ends, by an error or by Ctrl-C, no process is left. Each has a pipe of its
    own, since one that is ended while it sends would block all others on a shared one.

    Args:
        function: what can be pickled, as can its arguments and results.
        calls: the arguments of each call.
        workers: processes, at most.

    Raises:
        RuntimeError: a process was ended from outside, as for want of memory.
    """
    context = get_context("spawn")
    left = list(enumerate(calls))[::-1]
    processes: dict[Connection, Any] = {}
    running: dict[Connection, int] = {}
    try:
        for _ in range(min(workers, len(calls))):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(function, there), daemon=True)
            process.start()
            there.close()  # so that the end of the process is the end of the pipe
            processes[here] = process
        ready: Sequence[Any] = list(processes)
        while ready:
            for here in ready:
                try:
                    answer = here.recv() if here in running else None
                    number = running.pop(here, None)
                    if left:
                        running[here], arguments = left.pop()
                        here.send(arguments)
                except (EOFError, ConnectionError):
                    process = processes[here]
                    process.join()
                    raise RuntimeError(
                        "workers: expected processes that live until they are done, got one ended "
                        f"with exit code {process.exitcode}; fewer of them need less memory"
                    ) from None
                if answer is not None and number is not None:
                    result, error = answer
                    if error is not None:
                        raise error
                    yield number, result
            ready = wait(list(running)) if running else []
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _serve(function: Callable[..., Any], connection: Connection) -> None:
    """Answer calls until there are no more, each with its result or its error."""
    # What is to be told comes with the results; a line of another process tells nobody whose it is.
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = function(*arguments), None
        except Exception as error:
            error.add_note(f"in a process of its own:\n{traceback.format_exc()}")
            answer = None, error
        connection.send(answer)
