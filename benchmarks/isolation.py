"""A function in a fresh process of its own, which ends with all it has started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

Args = ParamSpec("Args")
Result = TypeVar("Result")

CLEAN_UP_S = 60.0
"""Time to end what was started; then it is killed."""


def isolated(
    timeout_s: float, function: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs
) -> Result:
    """Call a function of a module in a new process, so that it inherits no state and leaves none.

    Raises:
        RuntimeError: The function raised, or the process died.
        TimeoutError: It took longer than `timeout_s`; everything it started was stopped.
    """
    name = getattr(function, "__qualname__", str(function))
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(theirs, function, args, kwargs), name=name)
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            raise TimeoutError(f"{name} was stopped: it took longer than {timeout_s:.0f} s")
        try:
            problem, result = ours.recv()
        except EOFError:
            raise RuntimeError(f"the process of {name} died; see what it wrote to stderr") from None
        process.join(CLEAN_UP_S)
    finally:
        _stop(process)
    if problem:
        raise RuntimeError(f"{name} failed:\n{problem}")
    value: Result = result
    return value


@contextmanager
def stderr_in(path: Path) -> Iterator[None]:
    """Let what this process and those it starts write to stderr go to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    before = os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def halted(but: Container[int]) -> Iterator[None]:
    """Halt every process that this one has started, except for some, as long as the block runs."""
    others = [one for one in psutil.Process().children(recursive=True) if one.pid not in but]
    try:
        for process in others:
            process.suspend()
        yield
    finally:
        for process in reversed(others):
            process.resume()


def exit_on_sigterm() -> None:
    """Make SIGTERM an exception, so that it unwinds what is open."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _work(
    theirs: Connection,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    exit_on_sigterm()
    try:
        result = function(*args, **kwargs)
    except Exception:  # whatever it was, the parent tells it
        theirs.send((traceback.format_exc(), None))
    else:
        theirs.send((None, result))


def _stop(process: SpawnProcess) -> None:
    if not process.is_alive():
        return
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.join(CLEAN_UP_S)
    process.kill()
    process.join()
    for orphan in started:
        if orphan.is_running():
            orphan.kill()
