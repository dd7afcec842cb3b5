"""Calls of one function in several processes that can be stopped at any moment."""

import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

_KILLED = "fewer of them need less memory"
_NO_START = (
    "they import the script that started them, so it must be a file, with its calls under "
    '`if __name__ == "__main__":`'
)


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
        ValueError: arguments that cannot be sent to another process.
    """
    context = get_context("spawn")
    left = [(number, _packed(arguments)) for number, arguments in enumerate(calls)][::-1]
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
                        here.send_bytes(arguments)
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
            ready = wait(list(running)) if running else []
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _packed(arguments: tuple[Any, ...]) -> bytes:
    """What is sent of the arguments of a call."""
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


def _serve(function: Callable[..., Any], connection: Connection) -> None:
    """Answer calls until there are no more, each with its result or its error."""
    # What is to be told comes with the results; a line of another process tells nobody whose it is.
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this
    while True:
        try:
            packed = connection.recv_bytes()
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            arguments = pickle.loads(packed)  # noqa: S301
        except Exception as error:
            connection.send((None, ValueError(_cannot_be_sent(error))))
            continue
        try:
            answer = function(*arguments), None
        except Exception as error:
            error.add_note(f"in a process of its own:\n{traceback.format_exc()}")
            answer = None, error
        connection.send(answer)
