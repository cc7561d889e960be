"""The report: one page that says what the bundle says, whatever titles are made of."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from heliograph.blend import Blend, Cohort
from heliograph.bundle import (
    DATA_FILE,
    EPOCHS_FILE,
    METRICS_FILE,
    RANKING_FILE,
    Bundle,
    open_bundle,
    write_bundle,
)
from heliograph.catalog import ITEMS_FILE
from heliograph.cleaning import Cleaning, Kept
from heliograph.cli import app
from heliograph.cohorts import CohortRow
from heliograph.history import HISTORIES_FILE, write_histories
from heliograph.ranking.fitting import CohortEvidence
from heliograph.report import render, write_report
from heliograph.report.charts import Bar, Group, grouped_bars, line_chart, nice_ticks
from heliograph.report.evidence import read_evidence
from heliograph.report.samples import draw_samples
from heliograph.report.wording import chance, decision, p_text, verdict_sentences
from heliograph.significance import PairedDifference
from heliograph.verdict import Verdict
from heliograph.workspace import InputError, write_json
from test_bundle import config, write_parts
from worlds import interactions

N_ITEMS = 6  # as in the parts of test_bundle
NASTY = "<script>alert('title')</script> & \"quotes\" {{ 7 * 7 }}"
NASTY_USER = "<img src=x onerror=alert(1)>"
NASTY_CATEGORY = "<b>bold</b> of more than twenty-four letters"
VOID = {"meta", "link", "br", "hr", "img", "input", "rect", "path", "circle", "polyline"}
MODELS = {
    "pipeline": 0.5, "retrieval": 0.45, "item_lm": 0.4, "transitions": 0.3,
    "als": 0.2, "text": 0.1, "popularity": 0.05,
}  # fmt: skip


class Page(HTMLParser):
    """Collects what a browser would see, and insists that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        """All text, its space collapsed."""
        return " ".join(" ".join(self.texts).split())


def verdict(shift: float = 0.0) -> Verdict:
    """Return a verdict in which NDCG@10 is as in MODELS, plus a shift, and all else follows."""
    metrics = ("recall", "precision", "f1", "ndcg", "mrr", "coverage", "gini", "novelty")
    names = [*metrics, "diversity", "popularity_bias"]
    behind = {
        name: PairedDifference(80, value - 0.5, value - 0.55, value - 0.45, 0.001, 0.004)
        for name, value in MODELS.items()
        if name != "pipeline"
    }
    rows = {
        name: [CohortRow(NASTY_CATEGORY, 79, value, 0.0, 1.0), CohortRow("one", 1, 0.5, None, None)]
        for name, value in MODELS.items()
    }
    return Verdict(
        {
            name: {f"{metric}@{k}": value + shift for metric in names for k in (5, 10)}
            for name, value in MODELS.items()
        },
        behind | {"retrieval": replace(behind["retrieval"], p_adjusted=0.4)},
        {"category of the target": rows, "history": rows},
    )


def metrics(refit: Verdict | None = None) -> dict[str, Any]:
    """Return the content of a bundle's metrics.json."""
    weights = {"transitions": 1.5, "als": 0.0}
    cohorts = [
        CohortEvidence(1, 0, 0, 0, 0, None, None, False, True, weights),  # type: ignore[arg-type]
        CohortEvidence(6, 80, 0.1234, 0.2, 0.3, 0.4, 0.01, True, False, weights),  # type: ignore[arg-type]
    ]
    found = {
        "users": 80,
        "items": N_ITEMS,
        "cohorts": [asdict(cohort) for cohort in cohorts],
        "validation": asdict(verdict()),
        "test": asdict(verdict()),
        "ratings": {
            "biases": {"rmse": 1.25, "mae": 0.75, "ratings": 1234},
            "inner product": {"rmse": 1.125, "mae": 0.5, "ratings": 1234},
        },
    }
    return found if refit is None else found | {"refit": asdict(refit)}


def make_bundle(folder: Path, content: dict[str, Any], histories: list[list[int]]) -> Bundle:
    """Write a bundle with such an evaluation and such users; titles are nasty."""
    parts_folder = folder / "parts"
    parts_folder.mkdir(parents=True)
    parts = write_parts(parts_folder)
    ids = [f"item-{row}" for row in range(N_ITEMS)]
    titles = [f"{NASTY} {row}" for row in range(N_ITEMS)]
    categories: list[list[str]] = [[] for _ in ids]
    table = {"item_id": ids, "title": titles, "text": ids, "categories": categories}
    pq.write_table(pa.table(table), parts_folder / ITEMS_FILE)
    known = replace(interactions(histories), user_ids=[NASTY_USER] * len(histories))
    write_histories(known, parts_folder / HISTORIES_FILE)
    cleaning = Cleaning(
        Kept(N_ITEMS, {}), Kept(12_345, {"timestamp is before 1970": 17}), 80, ["80 of 90 users"]
    )
    write_json(parts_folder / DATA_FILE, asdict(cleaning))
    epochs = [
        {"number": number, "loss": 2 / number, "validation_ndcg": score, "seconds": 1.0}
        for number, score in enumerate((0.1, 0.3, 0.2), start=1)
    ]
    write_json(parts_folder / EPOCHS_FILE, epochs)
    write_json(parts_folder / METRICS_FILE, content)
    shared = Cohort(1, {"transitions": 1.0}, {"transitions": 1.0})
    unasked = replace(shared, shortest=4, item_lm=False)
    write_json(parts_folder / RANKING_FILE, Blend([shared, unasked]).dump())
    return open_bundle(write_bundle(parts, config("shop"), folder / "bundles"))


HISTORIES = [[0, 1, 2], [3], [1, 2, 3, 4], []]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("report"), metrics(), HISTORIES)


@pytest.fixture(scope="module")
def html(bundle: Bundle) -> str:
    return render(bundle)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(html: str, page: Page) -> None:
    assert html.startswith("<!DOCTYPE html>")
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action"):
            assert value.startswith("#"), (name, value)
        assert not name.startswith("on")
    assert not re.search(r"url\(|@import|https?://", html)


def test_every_link_leads_to_a_section(page: Page) -> None:
    targets = {value.removeprefix("#") for name, value in page.attributes if name == "href"}
    assert targets <= {value for name, value in page.attributes if name == "id"}


def test_titles_identifiers_and_categories_are_text_whatever_they_contain(page: Page) -> None:
    assert NASTY in page.text
    assert f"User {NASTY_USER}" in page.text
    assert page.tags["b"] == 0
    assert any(NASTY_CATEGORY in value for name, value in page.attributes if name == "aria-label")


def test_the_verdict_names_the_best_single_model_and_how_sure_it_is(bundle: Bundle) -> None:
    first, second = verdict_sentences(read_evidence(bundle))
    assert first.startswith("For 50.0 % of 80 users")
    assert "40.0 % for the best single model, item LM, and 5.0 % for a list of the most" in first
    assert "is ahead of item LM by 0.1000 (95 % interval of the lead +0.0500 to +0.1500" in second
    assert (
        "p = 0.004: without a real difference, luck brings as wide a gap in about 1 of 250"
        in second
    )
    assert "is ahead of popularity by 0.4500" in second


def test_every_model_stands_in_the_table_of_every_cutoff(page: Page) -> None:
    assert page.rows.count(["pipeline", *["0.5000"] * 5]) == 1  # k = 5
    assert ["pipeline", *["0.5000"] * 5, "", "", ""] in page.rows  # k = 10
    assert ["item LM", *["0.4000"] * 5, "-0.1000", "-0.1500 to -0.0500", "0.004"] in page.rows


def test_the_best_of_each_column_is_bold_and_no_other(html: str) -> None:
    bold = re.findall(r"<td><strong>(.*?)</strong>", html)
    assert bold == ["0.5000"] * 10 + ["1.1250"]  # of ratings, the smallest error


def test_cohorts_say_why_they_have_their_weights(page: Page) -> None:
    row = next(row for row in page.rows if row[0] == "6 items or more")
    assert row[1:6] == ["80", "0.1234", "0.2000", "0.3000", "0.4000"]
    assert "its own weights" in row[6] and "is not asked" in row[6]
    assert row[7] == "transitions 1.5"
    assert next(row for row in page.rows if row[0] == "1 to 5 items")[1:3] == ["0", ""]


def test_the_data_say_what_was_rejected_and_why(page: Page) -> None:
    assert ["events, as they came", "12,362"] in page.rows
    assert ["rejected: timestamp is before 1970", "17"] in page.rows
    assert ["kept", "12,345"] in page.rows
    assert "80 of 90 users" in page.text


def test_sample_users_get_what_they_do_not_have_from_the_best_on(bundle: Bundle) -> None:
    samples = draw_samples(bundle)
    assert [sample.length for sample in samples] == [3, 1, 4]  # nobody without a history
    for sample, history in zip(samples, HISTORIES, strict=False):
        found = [int(item.item_id.removeprefix("item-")) for item in sample.recommended]
        assert sorted([*found, *history]) == list(range(N_ITEMS))
        scores = [item.score for item in sample.recommended]
        assert scores == sorted(scores, reverse=True) and sample.recommended[0].share == 1
        assert all(item.proposers for item in sample.recommended)
    assert [sample.asks_item_lm for sample in samples] == [True, True, False]
    assert sum(item.score for item in samples[0].recommended) == pytest.approx(1)  # all are shown
    assert samples[0].last == [f"{NASTY} {item}" for item in (2, 1, 0)]


def test_the_same_bundle_gives_the_same_page(bundle: Bundle, html: str, tmp_path: Path) -> None:
    write_report(bundle, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == html


def test_the_command_writes_the_page_and_says_where(
    bundle: Bundle, html: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", str(bundle.folder)])
    assert (done.exit_code, done.output) == (0, "report report.html\n")
    assert (tmp_path / "report.html").read_text() == html


def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="nowhere, which does not exist; name a file"):
        write_report(bundle, tmp_path / "nowhere" / "report.html")
    with pytest.raises(InputError, match="is a folder; name a file"):
        write_report(bundle, tmp_path)


def test_refitted_models_stand_beside_those_of_train_only(tmp_path: Path) -> None:
    page = Page(render(make_bundle(tmp_path, metrics(verdict(shift=0.1)), HISTORIES)))
    assert ["text", "0.1000", "0.2000", "0.1000", "0.2000"] in page.rows
    assert "For 60.0 % of 80 users" in page.text


def test_a_page_is_made_although_nobody_was_evaluated(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"models": {}, "lead": {}, "cohorts": {}}
    verdicts = {"validation": nothing, "test": nothing}
    content = {"users": 0, "items": N_ITEMS, "cohorts": [], "ratings": {}} | verdicts
    page = Page(render(make_bundle(tmp_path, content, [])))
    assert "Nobody was evaluated" in page.text
    assert "How well ratings are predicted" not in page.text


def test_errors_of_predicted_ratings_are_shown(page: Page) -> None:
    assert ["inner product", "1,234", "1.1250", "0.5000"] in page.rows


def test_an_evaluation_of_another_format_is_refused_with_the_cure(
    bundle: Bundle, tmp_path: Path
) -> None:
    content = metrics() | {"test": {"pipeline": {"ndcg@10": 0.5}}}
    with pytest.raises(InputError, match=r"metrics\.json is not in the format.*build it again"):
        render(make_bundle(tmp_path, content, HISTORIES))


def test_a_bundle_without_the_account_of_the_data_is_refused_with_the_cure(
    bundle: Bundle,
) -> None:
    files = {name: entry for name, entry in bundle.files.items() if name != DATA_FILE}
    with pytest.raises(InputError, match=r"data\.json is missing; build the bundle again"):
        render(replace(bundle, files=files))


@pytest.mark.parametrize(
    ("p", "number", "words"),
    [
        (0.74, "p = 0.74", "no difference is shown"),
        (0.05, "p = 0.05", "no difference is shown"),
        (0.049, "p = 0.049", "about 1 of 20 "),
        (0.0078, "p = 0.0078", "about 1 of 120 "),  # 128, rounded down
        (1e-9, "p < 0.0001", "fewer than 1 of 10,000 "),
    ],
)
def test_p_values_are_said_in_words(p: float, number: str, words: str) -> None:
    assert p_text(p) == number
    assert words in chance(p)


def test_weights_set_by_hand_are_called_so() -> None:
    cohort = CohortEvidence(1, 9, 0, 0, 0, None, None, False, True, {})
    assert decision(cohort, set_by_hand=True) == "the weights were set by hand"
    assert "too few users" in decision(cohort, set_by_hand=False)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 0.23, [0, 0.05, 0.1, 0.15, 0.2, 0.25]),
        (5.4, 6.8, [5.0, 5.5, 6.0, 6.5, 7.0]),
        (3.0, 3.0, [3.0, 4.0]),
        (0.0, 0.0, [0.0, 0.2]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(
    low: float, high: float, expected: list[float]
) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_a_bar_is_as_long_as_its_value() -> None:
    bars = [Bar(0.5, 0.4, 0.6, "pipeline"), Bar(1.0, None, None, "popularity")]
    chart = grouped_bars([Group("everyone", "2 users", bars)], "A chart")
    half, whole = map(float, re.findall(r'<rect class="\S+" x="170" y="\S+" width="(\S+)"', chart))
    assert whole == pytest.approx(2 * half)
    assert chart.count("whisker") == 1
    assert 'role="img" aria-label="A chart"' in chart


def test_a_curve_has_a_point_for_every_epoch_and_marks_the_best() -> None:
    chart = line_chart([3.0, 1.0, 2.0], "A curve", "loss", marked=1)
    points = re.findall(r"([\d.]+),([\d.]+)", chart)
    assert len(points) == 3
    heights = [float(y) for _, y in points]
    assert np.argsort(heights).tolist() == [0, 2, 1]  # y grows downwards
    x, y = re.findall(r'cx="(\S+)" cy="(\S+)"', chart)[0]
    assert [float(x), float(y)] == [float(value) for value in points[1]]
    assert "<circle" in line_chart([3.0], "One epoch", "loss", marked=None)
