"""What a search at work shows where nothing can be redrawn: in a file, or a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from heliograph_tune import progress
from heliograph_tune.progress import SearchProgress, best_table
from heliograph_tune.records import Asked, Over, Record
from heliograph_tune.search_file import Search
from searches import ended, make_search, steps


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


def test_a_trial_that_time_has_cut_lacks_what_only_whole_ones_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SAID_EVERY_S", 0.0)
    search = make_search(tmp_path, objectives=["ndcg@10", "seconds"], repeat={"best": 0})
    written = io.StringIO()
    with SearchProgress(Console(file=written, width=80), search, Record()) as shown:
        asked = Asked(number=0, seed=7, settings={})
        shown.watch(0, asked)
        shown.watch(0, ended(asked, 0.3, state="cut", metrics={"ndcg@10": 0.3}))
    assert "best: as it stands, ndcg@10 0.3000; 1 cut" in written.getvalue()


def test_a_stopped_trial_shows_no_score_beside_those_that_ran_to_their_end(tmp_path: Path) -> None:
    search, record = make_search(tmp_path, repeat={"best": 1, "seeds": 1}), Record()
    as_it_stands = Asked(number=0, seed=7, settings={})
    drawn = Asked(number=1, seed=7, settings={"models.als.factors": 8})
    record.note(as_it_stands)
    record.note(ended(as_it_stands, 0.11, state="stopped", steps=steps(0.1, 0.11)))
    record.note(drawn)
    record.note(ended(drawn, 0.14))
    for number, repeats, score in ((2, 1, 0.13), (3, 0, 0.12)):
        again = Asked(number=number, phase="repeat", repeats=repeats, seed=8, settings={})
        record.note(again)
        record.note(ended(again, score))
    record.note(Over(phase="search"))
    record.note(Over(phase="repeat"))
    console = Console(file=io.StringIO(), width=100)
    console.print(best_table(search, record))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "stopped at 2" in shown
    assert "0.1100" not in shown
    assert "0.1200 (1)" in shown
