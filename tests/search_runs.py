"""Searches of the item LM that tests run, here or by the command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from heliograph_tune.records import Asked, Event, Finished, Record, Step, read_journal
from heliograph_tune.run_folder import create_run, newest_run
from heliograph_tune.search import run_search
from heliograph_tune.search_file import load_search
from small_shop import Silent

PATIENCE_S = 240
TRIALS, EPOCHS = 7, 15

COMMAND = (
    # whoever runs these tests in the background has Ctrl-C ignored, and children inherit that
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from heliograph.cli import main; sys.argv.insert(1, 'tune'); main()"
)

SEARCH: dict[str, Any] = {
    "name": "item-lm",
    "config": "shop.yaml",
    "overrides": [f"train.epochs={EPOCHS}", "train.patience=40", "train.device=cpu"],
    "search": "item_lm",
    "space": {
        "train.lr": {"type": "log_uniform", "low": 1e-4, "high": 1e-2},
        "train.dropout": {"type": "uniform", "low": 0, "high": 0.5},
    },
    "searcher": "random",
    "scheduler": "fifo",
    "budget": {"trials": TRIALS, "concurrency": 2},
    "repeat": {"best": 0},
}


def write(shop: Path, **changes: Any) -> Path:
    path = shop / "search.yaml"
    path.write_text(yaml.safe_dump(SEARCH | changes))
    return path


def nobody(number: int, event: Asked | Finished | Step) -> None:
    """Ignore what happens."""


def run(path: Path, resume: bool = False) -> Record:
    search = load_search(path)
    folder = newest_run(search) if resume else create_run(search)
    return run_search(search, folder, Silent(), nobody)


def events(shop: Path, name: str = "item-lm-1") -> list[Event]:
    return list(read_journal(shop / "workspace" / "searches" / name / "journal.jsonl"))


def finished(shop: Path) -> list[Finished]:
    return [event for event in events(shop) if isinstance(event, Finished)]


def outcomes(shop: Path) -> dict[int, tuple[dict[str, Any], float]]:
    record = Record(events(shop))
    return {
        number: (record.asked[number].settings, round(end.metrics["ndcg@10"], 6))
        for number, end in record.finished.items()
    }


@contextmanager
def searching(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process of its own, with a cluster of its own."""
    environment = os.environ | {
        "RAY_ADDRESS": "local",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # how long a killed cluster is waited for
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(path), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    family = psutil.Process(process.pid)
    try:
        yield process
    finally:
        left = [family, *family.children(recursive=True)] if family.is_running() else []
        for one in left:
            with_no_one_there_it_is_fine(one.kill)
        process.communicate()


def with_no_one_there_it_is_fine(kill: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        kill()


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def resume(path: Path) -> str:
    with searching(path, "--resume") as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output


def kill_driver(process: subprocess.Popen[str]) -> None:
    process.kill()
