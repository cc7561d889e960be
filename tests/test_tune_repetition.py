"""The best are judged once more where that tells something, and the time it takes is foreseen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from heliograph_tune import repetition
from heliograph_tune.progress import best_table, seconds_left
from heliograph_tune.records import Asked, Record
from heliograph_tune.report import render
from heliograph_tune.search_file import Search
from heliograph_tune.standings import standings
from heliograph_tune.trials_to_run import repeat_trials
from searches import ended, make_search

WINDOW: dict[str, Any] = {"models.transitions.window": {"type": "integer", "low": 1, "high": 40}}
HALF_LIFE: dict[str, Any] = {"models.text.half_life": {"type": "uniform", "low": 1, "high": 9}}
WEIGHT: dict[str, Any] = {"candidates.weights.als": {"type": "uniform", "low": 0, "high": 2}}
DEPTH: dict[str, Any] = {"candidates.depth": {"type": "integer", "low": 5, "high": 50}}
SECTION: dict[str, Any] = {
    "candidates": {"type": "choice", "values": [{"weights": {"als": 1}}, {"weights": {"als": 2}}]}
}


def searched(search: Search, trials: int, seconds: float = 10.0) -> Record:
    """Return the record of a search whose trials have all ended, two at once."""
    record = Record()
    for number in range(trials):
        path, window = next(iter(search.space.parameters)), number + 1
        asked = Asked(number=number, seed=7, settings={path: window} if number else {})
        spent_s = (number + 1) * seconds / 2
        record.note(asked)
        record.note(ended(asked, 0.1 + number / 100, seconds=seconds, spent_s=spent_s))
    return record


@pytest.mark.parametrize(
    ("changes", "seeds"),
    [
        ({}, 3),
        ({"repeat": {"best": 0}}, 0),
        ({"search": "transitions", "space": WINDOW}, 0),
        ({"search": "text", "space": HALF_LIFE}, 0),
        # another seed draws other users to be judged by
        ({"search": "text", "space": HALF_LIFE, "overrides": ["evaluation.max_users=50"]}, 3),
        ({"search": "pipeline", "space": DEPTH}, 3),
        ({"search": "pipeline", "space": DEPTH, "overrides": ["candidates.weights={als: 1}"]}, 0),
        ({"search": "pipeline", "space": WEIGHT}, 1),
        ({"search": "pipeline", "space": SECTION}, 1),
    ],
)
def test_only_what_a_seed_changes_is_run_with_others(
    changes: dict[str, Any], seeds: int, tmp_path: Path
) -> None:
    search = make_search(tmp_path, **changes)
    assert repetition.seeds(search) == seeds
    assert repetition.runs(search) == 4 * seeds


def test_models_without_luck_are_not_run_again_and_the_table_says_so(tmp_path: Path) -> None:
    search = make_search(tmp_path, search="transitions", space=WINDOW)
    record = searched(search, 5)
    assert not list(repeat_trials(search, record, record.note))
    assert standings(search, record)[0].number == 4
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(best_table(search, record))
    assert "they are not run again" in console.export_text()
    assert "they are not run again" in render(search, record, "transitions-1")


def test_time_left_counts_what_is_left_of_the_repetitions(tmp_path: Path) -> None:
    budget = {"minutes": 2, "concurrency": 2}
    search = make_search(tmp_path, budget=budget, repeat={"best": 1, "seeds": 3})
    record = searched(search, 20)  # 20 trials of 10 s, two at once: 100 s
    assert seconds_left(search, record, spent=100) == pytest.approx(20 + 6 * 10 / 2)
    assert seconds_left(search, record, spent=119) == pytest.approx(1 + 6 * 10 * 119 / 200)
    again = list(repeat_trials(search, record, record.note))
    assert len(again) == 6
    assert seconds_left(search, record, spent=120) == pytest.approx(6 * 10 * 120 / 200)
    ample = make_search(tmp_path, budget={"minutes": 9}, repeat={"best": 1, "seeds": 3})
    assert seconds_left(ample, record, spent=120) == pytest.approx(6 * 10 * 120 / 200)
    for asked in again[:3]:
        record.note(ended(asked, 0.5, seconds=10.0))
    assert seconds_left(search, record, spent=135) == pytest.approx(3 * 10 * 135 / 230)


def test_time_left_of_so_many_trials_is_theirs_and_that_of_the_repetitions(tmp_path: Path) -> None:
    search = make_search(tmp_path, budget={"trials": 30}, repeat={"best": 1, "seeds": 2})
    assert seconds_left(search, Record(), spent=0) is None
    record = searched(search, 20)
    assert seconds_left(search, record, spent=100) == pytest.approx(10 * 5 + 4 * 5)
