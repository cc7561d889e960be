"""A search of the running graph: what trials measure, who is recommended, and that it goes on."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray import serve

from heliograph.bundle import Bundle, open_bundle
from heliograph.workspace import InputError
from heliograph_tune.pareto import front
from heliograph_tune.promote import promote
from heliograph_tune.records import Asked, Finished, Record, Step, read_journal
from heliograph_tune.report import write_report
from heliograph_tune.run_folder import RunFolder, create_run
from heliograph_tune.search import run_search
from heliograph_tune.search_file import load_search
from heliograph_tune.serving_prepare import place_of
from heliograph_tune.serving_trial import processor_s
from heliograph_tune.standings import standings
from small_shop import STEPS, USERS, Silent
from test_graph import free_port
from test_tune_search import searching, wait_for

pytestmark = pytest.mark.cluster

TOO_SHORT, AMPLE = 0.01, 5000.0
"""Deadlines that nobody and everybody keeps."""

SEARCH: dict[str, Any] = {
    "name": "serving",
    "config": "shop.yaml",
    "overrides": [f"serve.deadline_ms={TOO_SHORT}"],
    "search": "serving",
    "space": {
        "serve.deadline_ms": {"type": "choice", "values": [TOO_SHORT, AMPLE]},
        "candidates.count": {"type": "choice", "values": [8, 32]},
    },
    "objectives": ["ndcg@10", "p95_ms", "requests_per_s", "cost"],
    "goal": {"ndcg@10": 0.5},
    "load": {"users": 60, "clients": 4, "seconds": 0.5},
    "searcher": "random",
    "budget": {"trials": 12},
    "repeat": {"best": 0},
}


@pytest.fixture
def shop(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder.parents[2], tmp_path / "shop"))


def write(shop: Path, **changes: Any) -> Path:
    path = shop / "search.yaml"
    path.write_text(yaml.safe_dump(SEARCH | changes))
    return path


def test_the_graph_is_searched_and_the_best_that_keeps_the_goal_recommended(shop: Path) -> None:
    search = load_search(write(shop))
    folder = create_run(search)
    name = place_of(folder, folder.bundles).name
    replicas: list[set[str]] = []

    def look(number: int, event: Asked | Finished | Step) -> None:
        if isinstance(event, Finished) and event.state == "done":
            replicas.append(set(processor_s(name)))

    record = run_search(search, folder, Silent(), look)
    assert not serve.status().applications
    done = {number: end for number, end in record.finished.items() if end.state == "done"}
    assert not [end.error for end in record.finished.values() if end.error]
    assert len(done) == 4  # each configuration once
    for number, end in done.items():
        deadline = record.asked[number].settings.get("serve.deadline_ms", TOO_SHORT)
        assert end.metrics["failed"] == 0
        assert end.metrics["cost"] > 0
        assert end.metrics["generative"] == (deadline == AMPLE)
        assert (end.metrics["ndcg@10"] > 0.5) == (deadline == AMPLE)
    winner = standings(search, record)[0]
    assert record.asked[winner.number].settings["serve.deadline_ms"] == AMPLE
    fastest = min(done, key=lambda number: done[number].metrics["p95_ms"])
    assert fastest in front(search, record, 2)
    assert len(set.intersection(*replicas)) == 1  # neither setting concerns the ranking engine
    assert len(set.union(*replicas)) > 3
    check_what_was_served(folder)
    page = write_report(folder, folder.path / "report.html").read_text()
    assert f"Trial {winner.number} is recommended" in page
    found = promote(folder, Silent())
    promoted = open_bundle(Path(found.bundle)).config
    assert promoted.serve.deadline_ms == AMPLE


def check_what_was_served(folder: RunFolder) -> None:
    """Nobody's history has a validation or a test item: the last two steps of each walk."""
    served = open_bundle(folder.bundles)
    histories = served.histories()
    assert len(histories) == 60 * 12
    assert max(map(len, histories.interactions.histories())) == STEPS - 2
    assert USERS > 60


def test_a_search_beside_a_running_graph_is_refused(shop: Path) -> None:
    serve.start(http_options={"port": free_port()})
    try:
        search = load_search(write(shop))
        with pytest.raises(InputError, match="Ray Serve runs on this cluster already"):
            run_search(search, create_run(search), Silent(), lambda number, event: None)
    finally:
        serve.shutdown()


def finished(shop: Path) -> list[Finished]:
    journal = shop / "workspace" / "searches" / "serving-1" / "journal.jsonl"
    return [event for event in read_journal(journal) if isinstance(event, Finished)]


def test_ctrl_c_ends_serve_too_and_the_search_goes_on(shop: Path) -> None:
    path = write(shop, budget={"trials": 2})
    with searching(path) as process:
        wait_for(lambda: len(finished(shop)) >= 1, process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    psutil.wait_procs(family, timeout=30)
    assert not [one for one in family if one.is_running()]
    before = finished(shop)
    with searching(path, "--resume") as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert finished(shop)[: len(before)] == before
    assert Record(finished(shop)).finished.keys() == {0, 1}
