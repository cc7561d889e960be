"""Searches killed in every way go on, and come to what an unbroken one comes to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from heliograph_tune.records import Finished
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
    resume,
    run,
    searching,
    wait_for,
    with_no_one_there_it_is_fine,
    write,
)

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


def test_a_search_that_is_killed_twice_goes_on_and_repeats_nothing(
    shop: Path, unbroken: Path
) -> None:
    path = write(shop)
    once = disturb(path, 2, kill_driver)
    assert 2 <= len(once) < TRIALS
    twice = disturb(path, len(once) + 1, kill_cluster, "--resume")
    assert twice[: len(once)] == once
    assert len(once) < len(twice) < TRIALS
    resume(path)
    assert finished(shop)[: len(twice)] == twice
    assert sorted(end.number for end in finished(shop)) == list(range(TRIALS))
    assert outcomes(shop) == outcomes(unbroken)


def test_a_trial_whose_worker_is_killed_goes_on_in_another(shop: Path, unbroken: Path) -> None:
    path = write(shop)
    checkpoints = shop / "workspace" / "searches" / "item-lm-1" / "checkpoints"
    with searching(path) as process:
        wait_for(
            lambda: any(checkpoints.glob("*/run.json")) and bool(children(process, TRIAL)), process
        )
        killed = children(process, TRIAL)
        for worker in killed:
            worker.kill()
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert not alive(killed)
    assert outcomes(shop) == outcomes(unbroken)
    assert all(len(end.steps) == EPOCHS for end in finished(shop))


def test_ctrl_c_ends_it_cleanly_and_says_how_to_go_on(shop: Path) -> None:
    path = write(shop)
    with searching(path) as process:
        journal = shop / "workspace" / "searches" / "item-lm-1" / "journal.jsonl"
        wait_for(lambda: journal.is_file() and len(finished(shop)) >= 1, process)
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert f"heliograph tune {path} --resume" in output.replace("\n", "")
    assert "Traceback" not in output
    assert not alive(family)


def test_a_finished_search_is_not_begun_again(unbroken: Path) -> None:
    before = events(unbroken)
    run(unbroken / "search.yaml", resume=True)
    assert events(unbroken) == before


NODES = """
import sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
for _ in range(3):
    cluster.add_node(num_cpus=1)
cluster.connect()
from heliograph_tune.run_folder import create_run
from heliograph_tune.search import run_search
from heliograph_tune.search_file import load_search
from small_shop import Silent
search = load_search(Path(sys.argv[1]))
record = run_search(search, create_run(search), Silent(), lambda number, event: None)
print(len({end.node for end in record.finished.values()}), "nodes")
ray.shutdown()
cluster.shutdown()
"""


def test_every_node_of_a_cluster_runs_trials(shop: Path) -> None:
    budget = {"trials": 8, "concurrency": 4}
    path = write(shop, budget=budget, overrides=["train.epochs=20", "train.patience=20"])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", NODES, str(path)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 nodes" in done.stdout
