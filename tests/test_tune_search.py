"""Searches on Ray: killed in every way, they go on, and come to what an unbroken one comes to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from heliograph.config import HeliographConfig
from heliograph.workspace import InputError
from heliograph_tune.prepare import Prepared
from heliograph_tune.records import Asked, Event, Finished, Record, Report, Step, read_journal
from heliograph_tune.run_folder import RunFolder, create_run, newest_run
from heliograph_tune.search import run_prepared, run_search
from heliograph_tune.search_file import load_search
from heliograph_tune.table import TRIALS_FILE
from processes import alive, descendants, title
from searches import make_search
from small_shop import Silent

pytestmark = pytest.mark.cluster
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see tests/

PATIENCE_S = 240
TRIALS, EPOCHS = 7, 25
TRIAL = "ray::ImplicitFunc"
"""What Ray calls the processes that run trials."""

COMMAND = (
    # whoever runs these tests in the background has Ctrl-C ignored, and children inherit that
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from heliograph_tune.commands import tune; tune()"
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


@pytest.fixture
def shop(embedded_shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded_shop, tmp_path / "shop"))


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


def kill_driver(process: subprocess.Popen[str]) -> None:
    process.kill()


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


def test_asha_stops_bad_trials_and_frees_their_places(shop: Path) -> None:
    space = {"train.lr": {"type": "log_uniform", "low": 1e-6, "high": 1e-2}}
    changes = {"scheduler": "asha", "space": space, "searcher": "random"}
    record = run(write(shop, **changes, budget={"trials": 14, "concurrency": 2}))
    stopped = [end for end in record.finished.values() if end.state == "stopped"]
    done = [end for end in record.finished.values() if end.state == "done"]
    assert stopped
    assert all(len(end.steps) < EPOCHS for end in stopped)
    assert all(len(end.steps) == EPOCHS for end in done)
    best = max(record.finished.values(), key=lambda end: end.metrics["ndcg@10"])
    assert best.state == "done"


def test_the_best_are_run_again_with_other_seeds(shop: Path) -> None:
    space = {"models.als.factors": {"type": "integer", "low": 2, "high": 16}}
    changes = {"name": "als", "search": "als", "space": space, "scheduler": None}
    record = run(write(shop, **changes, repeat={"best": 2, "seeds": 2}))
    assert record.is_complete
    assert len(record.of("repeat")) == 6
    assert {asked.seed for asked in record.of("repeat")} == {8, 9}


def test_a_search_whose_every_trial_fails_says_why(shop: Path) -> None:
    space = {"train.lr": {"type": "uniform", "low": 1e29, "high": 1e30}}
    with pytest.raises(InputError, match=r"no trial of 3 came to a result.*training diverged"):
        run(write(shop, space=space, overrides=["train.lr=1e30"], budget={"trials": 3}))


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(shop: Path) -> None:
    space = {"train.lr": {"type": "choice", "values": [1e30, 1e-3]}}
    changes = {"space": space, "budget": {"trials": 4}, "overrides": ["train.epochs=2"]}
    record = run(write(shop, **changes))
    failed = [end for end in record.finished.values() if end.state == "failed"]
    assert failed
    assert "training diverged" in str(failed[0].error)
    assert any(end.state == "done" for end in record.finished.values())


@dataclass(frozen=True)
class Odd:
    """Judges factors: of 1 it makes no number, of 2 an error, and 3 kill its worker."""

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `heliograph_tune.judges.Judge`."""
        match config.models.als.factors:
            case 1:
                return {"ndcg@10": float("nan")}
            case 2:
                raise ValueError("two are too few")
            case 3:
                os.kill(os.getpid(), signal.SIGKILL)
        return {"ndcg@10": 0.5}


def test_no_number_an_error_and_a_death_are_recorded_and_the_search_goes_on(
    ray_cluster: None, tmp_path: Path
) -> None:
    values = {"type": "choice", "values": [1, 2, 3, 4]}
    space = {"models.als.factors": values}
    search = make_search(tmp_path, space=space, budget={"minutes": 1}, repeat={"best": 0})
    record = run_prepared(search, create_run(search), Prepared(Odd(), {}), nobody)
    errors: dict[int, str | None] = {}
    for asked in record.of("search")[1:]:
        error = record.finished[asked.number].error
        errors.setdefault(asked.settings["models.als.factors"], error)
    assert "ndcg@10 is nan" in str(errors[1])
    assert errors[2] == "ValueError: two are too few"
    assert errors[3] == "its worker died again and again"
    assert errors[4] is None


@dataclass(frozen=True)
class Endless:
    """A judge that reports and never ends."""

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `heliograph_tune.judges.Judge`."""
        for step in count(1):
            time.sleep(0.05)
            report(Step(step=step, values={"ndcg@10": 0.5, "best": 0.5}))
        raise AssertionError


def test_time_that_is_over_cuts_what_is_at_work(ray_cluster: None, tmp_path: Path) -> None:
    budget = {"minutes": 0.25, "concurrency": 2}
    search = make_search(tmp_path, budget=budget, repeat={"best": 0})
    record = run_prepared(search, create_run(search), Prepared(Endless(), {}), nobody)
    assert [end.state for end in record.finished.values()] == ["cut", "cut"]
    assert all(end.steps and end.metrics == {"ndcg@10": 0.5} for end in record.finished.values())


def test_more_processors_than_there_are_are_refused(shop: Path) -> None:
    budget = {"trials": 2, "concurrency": 3}
    with pytest.raises(InputError, match="3 trials at once, of 1 CPUs .* do not fit"):
        run(write(shop, budget=budget))


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


def test_a_pipeline_is_searched_promoted_and_reported(shop: Path) -> None:
    from heliograph_tune.promote import PROMOTION_FILE, promote
    from heliograph_tune.report import write_report

    changes: dict[str, Any] = {
        "name": "pipeline", "search": "pipeline", "scheduler": None,
        "overrides": ["candidates.weights={text: 500.0}"],  # titles say nothing here
        "space": {"candidates.weights.text": {"type": "uniform", "low": 0, "high": 0.1}},
        "budget": {"trials": 10}, "repeat": {"best": 0},
    }  # fmt: skip
    path = write(shop, **changes)
    search = load_search(path)
    folder = create_run(search)
    record = run_search(search, folder, Silent(), nobody)
    assert len(record.finished) == 10
    page = write_report(folder, folder.path / "report.html").read_text()
    assert "pipeline-1: what was found" in page
    found = promote(folder, Silent())
    assert Path(found.bundle, "manifest.json").is_file()
    assert found.difference.users == 120
    written = json.loads((folder.path / PROMOTION_FILE).read_text())
    assert promote(RunFolder(folder.path), Silent()) == found
    assert written["trial"] == found.trial
    assert found.difference.difference > 0
