"""What a search at work shows where nothing can be redrawn: in a file, or a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from heliograph_tune import progress
from heliograph_tune.progress import SearchProgress
from heliograph_tune.records import Asked, Record
from heliograph_tune.search_file import Search
from searches import ended, make_search


def said(search: Search, scores: list[float], is_terminal: bool) -> list[str]:
    """Return the lines that are written while trials end, one after another."""
    written = io.StringIO()
    console = Console(file=written, width=40, force_terminal=is_terminal)
    with SearchProgress(console, search, Record()) as shown:
        for number, score in enumerate(scores):
            settings = {"models.als.factors": 8 + number} if number else {}
            asked = Asked(number=number, seed=7, settings=settings)
            shown.watch(number, asked)
            shown.watch(number, ended(asked, score))
    return [line for line in written.getvalue().splitlines() if line.startswith("best:")]


def test_in_a_file_it_says_the_best_and_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SAID_EVERY_S", 0.0)
    search = make_search(tmp_path, repeat={"best": 0})
    lines = said(search, [0.1, 0.3, 0.2], is_terminal=False)
    assert [line.partition(";")[0] for line in lines] == [
        "best: as it stands, ndcg@10 0.1000",
        "best: trial 1, ndcg@10 0.3000",
        "best: trial 1, ndcg@10 0.3000",
    ]
    assert all("spent" in line and line.endswith("left") for line in lines)


def test_in_a_file_it_says_so_once_a_minute_at_most(tmp_path: Path) -> None:
    assert len(said(make_search(tmp_path), [0.1, 0.3, 0.2], is_terminal=False)) == 1


def test_in_a_terminal_the_table_is_enough(tmp_path: Path) -> None:
    assert said(make_search(tmp_path), [0.1, 0.3, 0.2], is_terminal=True) == []
