"""The report of a run says what its record says, and asks for nothing from elsewhere."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from heliograph.significance import PairedDifference
from heliograph.workspace import InputError
from heliograph_tune.commands import tune
from heliograph_tune.progress import promotion_table
from heliograph_tune.promote import Promotion
from heliograph_tune.records import Asked, Event, Journal, Over, Record
from heliograph_tune.report import render, verdict, write_report
from heliograph_tune.run_folder import create_run
from heliograph_tune.search_file import Search
from heliograph_tune.standings import standings
from searches import ended, make_search, steps
from test_report import Page

NASTY = "<script>alert(1)</script>"
SPACE: dict[str, Any] = {
    "train.lr": {"type": "log_uniform", "low": 1e-4, "high": 1e-2},
    "train.precision": {"type": "choice", "values": ["float32", "bfloat16"]},
    "train.negatives": {
        "type": "integer", "low": 8, "high": 64, "where": {"train.precision": ["float32"]},
    },
}  # fmt: skip


def events(search: Search) -> list[Event]:
    """Return a record of a dozen trials of which the tenth is the best, and of repetitions."""
    found: list[Event] = []
    for number in range(12):
        settings = {"train.lr": 1e-3 + number / 2000, "train.precision": "bfloat16"}
        if number % 2:
            settings |= {"train.precision": "float32", "train.negatives": 8 + number}
        settings = settings if number else {}
        drawn = search.space.drawn_for(settings) if number else None
        asked = Asked(number=number, seed=7, settings=settings, drawn=drawn)
        score = 0.9 if number == 10 else 0.1 + number / 100
        end = ended(asked, score, steps=steps(score / 2, score))
        if number == 3:
            end = ended(asked, 0.0, state="failed", metrics={}, error=NASTY)
        found += [asked, end]
    found.append(Over(phase="search"))
    for number, of in enumerate((10, 0), start=12):
        asked = Asked(number=number, phase="repeat", repeats=of, seed=8, settings={})
        found += [asked, ended(asked, 0.8 if of else 0.2)]
    return [*found, Over(phase="repeat")]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    changes = {"search": "item_lm", "scheduler": "fifo", "objectives": ["ndcg@10", "seconds"]}
    return make_search(tmp_path, space=SPACE, repeat={"best": 1, "seeds": 1}, **changes)


@pytest.fixture
def html(search: Search) -> str:
    return render(search, Record(events(search)), "item-lm-1")


def test_the_page_is_whole_and_needs_nothing_beside_it(html: str) -> None:
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    assert not re.search(r"url\(|@import|https?://", html)
    assert not re.search(r"\bnan\b", html)


def test_every_link_leads_to_a_section(html: str) -> None:
    page = Page(html)
    targets = {value.removeprefix("#") for name, value in page.attributes if name == "href"}
    assert targets <= {value for name, value in page.attributes if name == "id"}


def test_it_says_who_has_won_and_shows_every_trial(html: str, search: Search) -> None:
    page = Page(html)
    assert "Trial 10 is the best, with a mean ndcg@10 of 0.8000 over 1 other seeds." in page.text
    assert "The configuration as it stands has 0.2000" in page.text
    names = [row[0] for row in page.rows]
    assert names.count("as it stands") == 2
    assert {str(number) for number in range(1, 12)} <= set(names)
    assert f"failed: {NASTY}" in page.text


def test_it_says_what_trials_were_judged_by(html: str, search: Search) -> None:
    assert "judged by the validation item of each user." in html
    settings = search.settings.model_copy(update={"held_out": 8})
    page = render(replace(search, settings=settings), Record(events(search)), "item-lm-1")
    assert "judged by the last 8 items of each user before the test item" in page


def test_it_draws_curves_settings_importance_and_the_front(html: str) -> None:
    labels = [value for name, value in Page(html).attributes if name == "aria-label"]
    drawn = " | ".join(labels)
    assert "ndcg@10 by epoch of 11 trials" in drawn
    assert "Settings and ndcg@10 of 10 trials" in drawn
    assert "Importance of each setting: train." in drawn
    assert "ndcg@10 against seconds" in drawn


def test_where_nothing_is_better_it_says_so(search: Search) -> None:
    flat = [
        event.model_copy(update={"metrics": {"ndcg@10": 0.1, "seconds": 1.0}})
        if event.event == "finished" and event.number > 11 and event.number == 12
        else event
        for event in events(search)
    ]
    record = Record(flat)
    (sentence,) = verdict(search, record, standings(search, record))
    assert sentence.startswith("Nothing was better than the configuration as it stands")


def test_the_command_writes_the_page_and_the_table(search: Search) -> None:
    folder = create_run(search)
    with Journal(folder.journal) as journal:
        for event in events(search):
            journal.append(event)
    done = CliRunner().invoke(tune, ["report", str(folder.path)])
    assert done.exit_code == 0, done.output
    assert (folder.path / "report.html").is_file()
    assert (folder.path / "trials.parquet").is_file()


def test_a_run_without_results_has_no_report(search: Search) -> None:
    folder = create_run(search)
    with pytest.raises(InputError, match="no trial of .* has come to a result"):
        write_report(folder, folder.path / "report.html")


def test_every_command_shows_an_example() -> None:
    for arguments in (
        ["--help"],
        ["search", "--help"],
        ["report", "--help"],
        ["promote", "--help"],
    ):
        shown = CliRunner().invoke(tune, arguments)
        assert shown.exit_code == 0
        assert "Example: heliograph tune" in " ".join(shown.output.split())


def test_a_path_is_a_search_to_be_run(tmp_path: Path) -> None:
    for arguments in ([str(tmp_path / "none.yaml")], ["--resume", str(tmp_path / "none.yaml")]):
        done = CliRunner().invoke(tune, arguments)
        assert "no search file at" in str(done.exception)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0.01, 0.03, "more than luck"), (-0.01, 0.03, "no difference"), (-0.03, -0.01, "worse")],
)
def test_a_promotion_says_whether_it_is_better(low: float, high: float, told: str) -> None:
    found = PairedDifference(100, (low + high) / 2, low, high, 0.04, 0.04)
    settings = {"models.als.factors": 9}
    run = "searches/als-1"
    promotion = Promotion(
        3, settings, 0.2, 0.12, 0.1, f"{run}/config.yaml", found, f"{run}/best.yaml", "bundle"
    )
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(promotion_table(promotion))
    page = console.export_text()
    assert told in page
    assert "as it stands" in page
    assert "trial 3: factors=9" in page
    assert "read before" not in page
    console.print(promotion_table(replace(promotion, read_before="2026-01-02T03:04:05+00:00")))
    page = " ".join(console.export_text().split())
    assert "a promotion that began 2026-01-02T03:04:05+00:00 did not come to its end" in page
