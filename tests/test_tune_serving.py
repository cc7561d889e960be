"""A search of the running graph: what trials measure, who is recommended, and that it goes on."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray import serve

from heliograph.bundle import Bundle, open_bundle
from heliograph.workspace import InputError
from heliograph_tune.promote import promote
from heliograph_tune.records import Asked, Finished, Record, Step, read_journal
from heliograph_tune.report import write_report
from heliograph_tune.run_folder import RunFolder, newest_run
from heliograph_tune.search import run_search
from heliograph_tune.search_file import Search, load_search
from heliograph_tune.serving_prepare import place_of, serve_for_trials
from heliograph_tune.serving_trial import Place, processor_s
from heliograph_tune.standings import standings
from heliograph_tune.visitors import VISITS
from processes import alive, descendants
from search_runs import searching, wait_for
from small_shop import STEPS, Silent

pytestmark = pytest.mark.cluster

TOO_SHORT, AMPLE = 0.01, 5000.0
"""Deadlines that nobody and everybody keeps."""

SEARCH: dict[str, Any] = {
    "name": "serving",
    "config": "shop.yaml",
    "overrides": [f"serve.deadline_ms={TOO_SHORT}", "index.type=hnsw"],
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


@dataclass(frozen=True)
class Interrupted:
    """A search that Ctrl-C has ended after its first trial."""

    search: Path
    status: int
    output: str
    left: list[psutil.Process]
    """Processes of it that go on."""


def finished(search: Path) -> list[Finished]:
    journal = search.parent / "workspace" / "searches" / "serving-1" / "journal.jsonl"
    return [event for event in read_journal(journal) if isinstance(event, Finished)]


@pytest.fixture(scope="module")
def interrupted(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("serving")
    search = Path(shutil.copytree(bundle.folder.parents[2], folder / "shop")) / "search.yaml"
    search.write_text(yaml.safe_dump(SEARCH))
    with searching(search) as process:
        wait_for(lambda: len(finished(search)) >= 1, process)
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    return Interrupted(search, process.returncode, output, alive(family))


def test_ctrl_c_ends_the_graph_too(interrupted: Interrupted) -> None:
    assert interrupted.status == 130, interrupted.output
    assert "--resume" in interrupted.output
    assert not interrupted.left


def test_the_search_goes_on_and_recommends_the_best_that_keeps_the_goal(
    interrupted: Interrupted,
) -> None:
    before, search = finished(interrupted.search), load_search(interrupted.search)
    folder = newest_run(search)
    place = place_of(folder, folder.bundles)
    replicas: list[set[str]] = []

    def look(number: int, event: Asked | Finished | Step) -> None:
        if isinstance(event, Finished) and event.state == "done":
            replicas.append(set(processor_s(place.name)))
            if len(replicas) == 1:
                check_another_is_refused(place, search)

    record = run_search(search, folder, Silent(), look)
    assert not serve.status().applications
    assert finished(interrupted.search)[: len(before)] == before
    check_metrics(record)
    assert len(set.intersection(*replicas)) == 1  # neither setting concerns the ranking engine
    assert len(set.union(*replicas)) > 3
    winner = standings(search, record)[0]
    assert record.asked[winner.number].settings["serve.deadline_ms"] == AMPLE
    check_what_was_served(folder)
    page = write_report(folder, folder.path / "report.html").read_text()
    assert f"Trial {winner.number} is recommended" in page
    found = promote(folder, Silent())
    assert open_bundle(Path(found.bundle)).config.serve.deadline_ms == AMPLE
    assert found.reached["ndcg@10"] > found.reached_before["ndcg@10"]


def check_another_is_refused(place: Place, search: Search) -> None:
    another = serve_for_trials(replace(place, name="another"), search.config)
    with pytest.raises(InputError, match="Ray Serve runs on this cluster already"), another:
        pass


def check_metrics(record: Record) -> None:
    """Whoever has time is told what comes next; who has none is told what is popular."""
    assert not [end.error for end in record.finished.values() if end.error]
    done = {number: end for number, end in record.finished.items() if end.state == "done"}
    assert len(done) == 4  # each configuration once
    for number, end in done.items():
        deadline = record.asked[number].settings.get("serve.deadline_ms", TOO_SHORT)
        assert end.metrics["failed"] == 0
        assert end.metrics["cost"] > 0
        assert end.metrics["generative"] == (deadline == AMPLE)
        assert (end.metrics["ndcg@10"] > 0.5) == (deadline == AMPLE)


def check_what_was_served(folder: RunFolder) -> None:
    """Nobody's history has a validation or a test item: the last two steps of each walk."""
    histories = open_bundle(folder.bundles).histories()
    assert len(histories) == 60 * VISITS
    assert max(map(len, histories.interactions.histories())) == STEPS - 2
