"""Searches killed in every way go on, and come to what an unbroken one comes to."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from heliograph.config import HeliographConfig
from heliograph_tune.prepare import Prepared
from heliograph_tune.records import Asked, Finished, Report, Step
from heliograph_tune.run_folder import RunFolder, create_run
from heliograph_tune.search import run_prepared
from heliograph_tune.table import TRIALS_FILE
from processes import alive, descendants, title
from search_runs import (
    EPOCHS,
    PATIENCE_S,
    TRIALS,
    events,
    finished,
    kill_driver,
    outcomes,
    run,
    searching,
    wait_for,
    with_no_one_there_it_is_fine,
    write,
)
from searches import make_search

pytestmark = pytest.mark.cluster

TRIAL = "ray::ImplicitFunc"
"""What Ray calls the processes that run trials."""


@pytest.fixture
def shop(embedded_shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded_shop, tmp_path / "shop"))


def children(process: subprocess.Popen[str], word: str) -> list[psutil.Process]:
    return [child for child in descendants(process.pid) if word in title(child)]


@pytest.fixture(scope="module")
def unbroken(embedded_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the same search, which nobody disturbs."""
    shop = Path(shutil.copytree(embedded_shop, tmp_path_factory.mktemp("unbroken") / "shop"))
    run(write(shop))
    return shop


def test_an_undisturbed_search_runs_every_trial_once(unbroken: Path) -> None:
    assert sorted(end.number for end in finished(unbroken)) == list(range(TRIALS))
    assert {end.state for end in finished(unbroken)} == {"done"}
    assert all(len(end.steps) == EPOCHS for end in finished(unbroken))
    folder = unbroken / "workspace" / "searches" / "item-lm-1"
    assert pq.read_table(folder / TRIALS_FILE).num_rows == TRIALS
    assert not list((folder / "checkpoints").glob("*"))


def disturb(
    path: Path, trials: int, end: Callable[[subprocess.Popen[str]], None], *arguments: str
) -> list[Finished]:
    """Run a search and do something to it when some trials have ended and others are at work."""
    shop = path.parent
    journal = shop / "workspace" / "searches" / "item-lm-1" / "journal.jsonl"
    with searching(path, *arguments) as process:
        wait_for(lambda: journal.is_file() and len(finished(shop)) >= trials, process)
        end(process)
        process.communicate(timeout=PATIENCE_S)
    return finished(shop)


def kill_cluster(process: subprocess.Popen[str]) -> None:
    for child in descendants(process.pid):
        with_no_one_there_it_is_fine(child.kill)


def kill_trials(process: subprocess.Popen[str], shop: Path) -> list[psutil.Process]:
    """Kill the workers of a search that are training, when one has a checkpoint; return them."""
    checkpoints = shop / "workspace" / "searches" / "item-lm-1" / "checkpoints"
    wait_for(
        lambda: any(checkpoints.glob("*/run.json")) and bool(children(process, TRIAL)), process
    )
    killed = children(process, TRIAL)
    for worker in killed:
        worker.kill()
    return killed


def test_a_search_whose_driver_cluster_and_workers_are_killed_goes_on_and_repeats_nothing(
    shop: Path, unbroken: Path
) -> None:
    path = write(shop)
    once = disturb(path, 2, kill_driver)
    assert 2 <= len(once) < TRIALS
    twice = disturb(path, len(once) + 1, kill_cluster, "--resume")
    assert twice[: len(once)] == once
    assert len(once) < len(twice) < TRIALS
    with searching(path, "--resume") as process:
        killed = kill_trials(process, shop)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert not alive(killed)
    assert finished(shop)[: len(twice)] == twice
    assert sorted(end.number for end in finished(shop)) == list(range(TRIALS))
    assert all(len(end.steps) == EPOCHS for end in finished(shop))
    assert outcomes(shop) == outcomes(unbroken)


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_it_cleanly_and_say_how_to_go_on(
    told: signal.Signals, shop: Path
) -> None:
    path = write(shop)
    with searching(path) as process:
        journal = shop / "workspace" / "searches" / "item-lm-1" / "journal.jsonl"
        wait_for(lambda: journal.is_file() and len(finished(shop)) >= 1, process)
        family = descendants(process.pid)
        process.send_signal(told)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert f"heliograph tune {path} --resume" in output.replace("\n", "")
    assert "Traceback" not in output
    assert not alive(family)


def test_a_finished_search_is_not_begun_again(unbroken: Path) -> None:
    before = events(unbroken)
    run(unbroken / "search.yaml", resume=True)
    assert events(unbroken) == before


NOTED = 16
"""Trials of a search on four nodes that loses one."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let nobody else note an end or a loss meanwhile; who dies with it gives it back."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Notes:
    """A judge that takes a second and notes who was at work where, and when."""

    folder: Path

    @property
    def lost(self) -> str | None:
        """The node that is lost, once it is chosen."""
        path = self.folder / "lost"
        return path.read_text() if path.is_file() else None

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `heliograph_tune.judges.Judge`; nothing that is at work on the lost node ends."""
        node, began = ray.get_runtime_context().get_node_id(), time.time()
        self.note("begun", checkpoint, node, began)
        time.sleep(1)
        with alone(self.folder):
            if self.lost != node:
                self.note("ended", checkpoint, node, began)
                return {"ndcg@10": 0.5}
        time.sleep(PATIENCE_S)
        raise RuntimeError("a lost node does not end")

    def note(self, what: str, checkpoint: Path, node: str, began: float) -> None:
        """Append a line, which small ones are whole."""
        with (self.folder / "notes").open("a") as file:
            file.write(f"{what} {int(checkpoint.name)} {node} {began} {time.time()}\n")

    def read(self, what: str) -> list[tuple[int, str, float, float]]:
        """Return trial, node, beginning and time of what was noted."""
        rows = (line.split() for line in (self.folder / "notes").read_text().splitlines())
        return [
            (int(number), node, float(began), float(now))
            for kind, number, node, began, now in rows
            if kind == what
        ]

    def busy(self) -> set[tuple[int, str, float]]:
        """Return trial, node and beginning of what has not ended."""
        return {one[:3] for one in self.read("begun")} - {one[:3] for one in self.read("ended")}


def search_that_loses_a_node(cluster: Any, folder: Path) -> None:
    """Run a search on four nodes, one of which dies when all have come to a result.

    It is one that a trial is at work on, and not that of this process.
    """
    budget = {"trials": NOTED, "concurrency": 4}
    search = make_search(folder, searcher="random", budget=budget, repeat={"best": 0})
    judge, nodes = Notes(folder), set[str]()
    others = {node.node_id: node for node in cluster.worker_nodes}

    def watch(number: int, event: Asked | Finished | Step) -> None:
        if not isinstance(event, Finished) or judge.lost:
            return
        nodes.add(event.node)
        with alone(folder):
            there = sorted({node for _, node, _ in judge.busy()} & others.keys())
            if len(nodes) < 4 or not there:
                return
            (folder / "lost").write_text(there[0])
        cluster.remove_node(others[there[0]], allow_graceful=False)

    run_prepared(search, create_run(search), Prepared(judge, {}), watch)


NODES = """
import sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
import test_tune_kills
ray.cloudpickle.register_pickle_by_value(test_tune_kills)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
for _ in range(3):
    cluster.add_node(num_cpus=1)
cluster.connect()
test_tune_kills.search_that_loses_a_node(cluster, Path(sys.argv[1]))
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def four_nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run that search; returns its folder."""
    folder = tmp_path_factory.mktemp("nodes")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_health_check_period_ms": "500",  # else a lost node is missed late
    }
    done = subprocess.run(
        [sys.executable, "-c", NODES, str(folder)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_four_nodes_of_a_cluster_run_trials_at_the_same_time(four_nodes: Path) -> None:
    ended = Notes(four_nodes).read("ended")
    at_once = [
        {node for _, node, other, end in ended if other <= began < end} for _, _, began, _ in ended
    ]
    assert max(map(len, at_once)) == 4


def test_trials_of_a_lost_node_run_elsewhere_and_no_finished_one_is_repeated(
    four_nodes: Path,
) -> None:
    notes = Notes(four_nodes)
    record = RunFolder(four_nodes / "workspace" / "searches" / "als-1").record()
    assert {end.state for end in record.finished.values()} == {"done"}
    assert len(record.finished) == NOTED
    cut = notes.busy()
    assert cut and {node for _, node, _ in cut} == {notes.lost}
    assert all(record.finished[number].node != notes.lost for number, *_ in cut)
    assert sorted(number for number, *_ in notes.read("ended")) == list(range(NOTED))
