"""Goals, visitors and the figures of a trial of the graph, without a graph."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config import DeploymentConfig, LimitsConfig, ServeConfig
from heliograph.config_file import ConfigError
from heliograph.load import HUNG_UP, OK, Answer, LoadError
from heliograph.workspace import InputError
from heliograph_tune.goal import keeps, merit, said
from heliograph_tune.pareto import front
from heliograph_tune.progress import outcome
from heliograph_tune.promote import promote
from heliograph_tune.records import Asked, Event, Journal, Over, Record
from heliograph_tune.report import front_table, verdict
from heliograph_tune.run_folder import create_run
from heliograph_tune.search_file import Search, SearchConfig
from heliograph_tune.serving_trial import as_measured, figures, spent
from heliograph_tune.standings import standings
from heliograph_tune.visitors import VISITS, WARM_UP, Visitors, name_of, visits_of
from searches import ended, make_search
from small_shop import Silent

SPACE: dict[str, Any] = {"serve.max_batch_size": {"type": "integer", "low": 1, "high": 99}}
OBJECTIVES = ["ndcg@10", "p95_ms", "requests_per_s"]


def serving(folder: Path, **changes: Any) -> Search:
    settings: dict[str, Any] = {"search": "serving", "space": SPACE, "objectives": OBJECTIVES}
    settings |= {"goal": {"p95_ms": 50}, "repeat": {"best": 0}}
    return make_search(folder, **(settings | changes))


def record_of(*points: tuple[float, float, float]) -> Record:
    """Return the record of trials with such an NDCG, latency and rate."""
    return Record(events_of(*points))


def events_of(*points: tuple[float, float, float]) -> list[Event]:
    events: list[Event] = []
    for number, point in enumerate(points):
        settings = {"serve.max_batch_size": number} if number else {}
        asked = Asked(number=number, seed=7, settings=settings)
        metrics = dict(zip(OBJECTIVES, point, strict=True))
        events += [asked, ended(asked, 0, metrics=metrics)]
    return [*events, Over(phase="search"), Over(phase="repeat")]


POINTS = [
    (0.30, 70.0, 900.0),  # as it stands: the best of all, but too slow
    (0.20, 20.0, 800.0),
    (0.25, 45.0, 300.0),
    (0.2502, 45.0, 200.0),  # better by luck, and slower
    (0.25, 48.0, 250.0),  # beaten by trial 2 in everything
]


def test_the_best_that_keeps_the_goal_is_recommended(tmp_path: Path) -> None:
    search, record = serving(tmp_path), record_of(*POINTS)
    assert [found.number for found in standings(search, record)] == [2, 3, 4, 1, 0]
    sentence, has, _ = verdict(search, record, standings(search, record))
    assert "Trial 2 is recommended" in sentence
    assert "p95_ms of at most 50" in sentence
    assert "p95_ms 70" in has


def test_without_a_goal_the_first_objective_decides(tmp_path: Path) -> None:
    search = serving(tmp_path, goal={})
    assert standings(search, record_of(*POINTS))[0].number == 0


def test_the_front_is_of_all_objectives_and_names_the_best(tmp_path: Path) -> None:
    search, record = serving(tmp_path), record_of(*POINTS)
    assert front(search, record, 3) == [0, 3, 2, 1]
    table = front_table(search, record, standings(search, record)[0])
    assert table is not None
    assert [row[0].text for row in table.rows] == ["as it stands", "3", "2, recommended", "1"]


def test_where_no_trial_keeps_the_goal_the_nearest_is_named_and_not_promoted(
    tmp_path: Path,
) -> None:
    search, events = serving(tmp_path, goal={"p95_ms": 10}), events_of(*POINTS)
    record = Record(events)
    (sentence,) = verdict(search, record, standings(search, record))
    assert "No trial keeps the goal" in sentence
    assert "Nearest comes trial 1" in sentence
    folder = create_run(search)
    with Journal(folder.journal) as journal:
        for event in events:
            journal.append(event)
    with pytest.raises(InputError, match=r"keeps the goal.*trial 1 comes nearest.*p95_ms 20"):
        promote(folder, Silent())


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SearchConfig:
    return serving(tmp_path_factory.mktemp("search")).settings


@given(points=st.lists(st.tuples(*[st.floats(0.01, 100)] * 3), min_size=1, max_size=8))
def test_whoever_keeps_the_goal_comes_before_whoever_does_not(
    settings: SearchConfig, points: list[tuple[float, float, float]]
) -> None:
    rows = [dict(zip(OBJECTIVES, point, strict=True)) for point in points]
    ranked = sorted(rows, key=lambda row: merit(settings, row))
    kept = [keeps(settings.goal, row) for row in ranked]
    assert kept == sorted(kept, reverse=True)


def test_a_goal_of_more_and_one_of_less_are_said(tmp_path: Path) -> None:
    assert said({"p95_ms": 50, "requests_per_s": 100}) == (
        "p95_ms of at most 50 and requests_per_s of at least 100"
    )
    assert keeps({"requests_per_s": 100}, {"requests_per_s": 100.0})
    assert not keeps({"requests_per_s": 100}, {"requests_per_s": 99.0})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"goal": {"p99_ms": 9}}, "goal names p99_ms, which is no objective here"),
        ({"goal": {"p95_ms": 0}}, "greater than 0"),
        ({"space": {"serve.port": {"type": "integer", "low": 1, "high": 9}}}, "changes nothing"),
        ({"space": {"serve.nprobe": {"type": "integer", "low": 1, "high": 9}}}, "no such setting"),
        ({"load": {"clients": 0}}, "greater than or equal to 1"),
        ({"scheduler": "asha"}, "use fifo"),
    ],
)
def test_what_a_search_of_the_graph_cannot_be_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        serving(tmp_path, **changes)


def test_only_a_search_of_the_graph_has_a_load_and_latencies(tmp_path: Path) -> None:
    for changes in ({"objectives": ["ndcg@10", "p95_ms"]}, {"load": {"clients": 3}}):
        with pytest.raises(ConfigError, match="needs the running graph; use search: serving"):
            make_search(tmp_path, **changes)
    assert serving(tmp_path, budget={"trials": 3, "concurrency": 4}).settings.at_once == 1


def test_visits_are_the_history_as_it_was_by_then() -> None:
    histories = [np.arange(5, dtype=np.int32), np.arange(40, 80, dtype=np.int32)]
    known = visits_of(histories)
    found = dict(zip(known.user_ids, known.histories(), strict=True))
    assert len(found) == 2 * VISITS
    assert found[name_of(0, 0)].tolist() == [0, 1, 2, 3, 4]
    assert found[name_of(0, 3)].tolist() == [0, 1]
    assert found[name_of(0, 9)].tolist() == [0]  # there was one item at least
    assert found[name_of(1, WARM_UP)].tolist() == list(range(40, 79))


def test_every_user_comes_with_the_whole_history_whatever_the_time() -> None:
    visitors = Visitors(np.array([3, 4, 5], np.int32))

    def who(requests: list[bytes]) -> list[str]:
        return [json.loads(one.partition(b"\r\n\r\n")[2])["user_id"] for one in requests]

    assert who(list(visitors.measured([2, 0, 1], 10, seconds=0))) == [
        name_of(user, 0) for user in (2, 0, 1)
    ]
    some = who(list(itertools.islice(visitors.measured([0, 1, 2], 10, seconds=60), 9)))
    assert some[3:] == [name_of(user, visit) for visit in (2, 3) for user in range(3)]
    assert who(list(visitors.warm_up([1, 0, 2], 10))) == [
        name_of(user, WARM_UP) for user in (1, 0, 2)
    ]


def answer(number: int, ms: float, status: int = OK, tier: str = "generative") -> Answer:
    body = json.dumps({"items": [], "tier": tier}).encode()
    return Answer(number, 0.0, ms / 1000, status, body)


def test_figures_count_failures_and_lesser_tiers() -> None:
    answers = [
        *(answer(number, 10.0) for number in range(6)),
        answer(6, 20.0, tier="retrieval"),
        answer(7, 20.0, tier="retrieval"),
        answer(8, 1.0, status=503),
        answer(9, 1.0, status=HUNG_UP),
    ]
    found = figures(answers, seconds=2.0, cost=0.04)
    assert found["failed"] == pytest.approx(0.2)
    assert found["requests_per_s"] == 4
    assert found["cost"] == pytest.approx(5)  # 0.04 s for 8 answers
    assert (found["generative"], found["retrieval"]) == (0.75, 0.25)
    assert found["p50_ms"] == pytest.approx(10)
    with pytest.raises(LoadError, match="none of 1 requests was answered"):
        figures([answer(0, 1.0, status=503)], 1.0, 0.0)


def test_a_replica_that_came_meanwhile_began_with_nothing() -> None:
    assert spent({"a": 2.0, "gone": 9.0}, {"a": 3.0, "new": 0.5}) == 1.5


def test_a_trial_is_measured_on_this_machine_with_all_replicas_and_an_empty_store() -> None:
    settings = ServeConfig(
        host="0.0.0.0",
        keys=Path("keys.json"),
        store="postgresql://shop",
        limits=LimitsConfig(requests_per_s=1),
        rank=DeploymentConfig(max_replicas=3),
    )
    measured = as_measured(settings, 4711)
    assert (measured.host, measured.port, measured.keys, measured.store) == (
        "127.0.0.1",
        4711,
        None,
        None,
    )
    assert measured.limits.requests_per_s is None
    assert (measured.rank.min_replicas, measured.rank.max_replicas) == (3, 3)


def test_the_command_line_says_what_is_recommended_or_how_far_it_is(tmp_path: Path) -> None:
    record = record_of(*POINTS)
    kept = list(outcome(serving(tmp_path), record, tmp_path))
    assert kept[1:] == [
        "recommended: trial 2, ndcg@10 0.2500, p95_ms 45, requests_per_s 300",
        f"heliograph tune promote {tmp_path}",
    ]
    missed = list(outcome(serving(tmp_path, goal={"p95_ms": 10}), record, tmp_path))
    assert "nearest comes trial 1, ndcg@10 0.2000, p95_ms 20" in missed[-1]
    baseline = list(outcome(serving(tmp_path, goal={"p95_ms": 90}), record, tmp_path))
    assert baseline[-1] == "nothing was better than the configuration as it stands"
