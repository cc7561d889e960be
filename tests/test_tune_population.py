"""Who goes on from whose weights, with which settings, and which populations are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from heliograph.config_file import ConfigError
from heliograph_tune.population import (
    explore,
    follows,
    generation_of,
    generations,
    latest,
    lineage,
    most_trials,
    parents,
    without_heirs,
)
from heliograph_tune.progress import as_text, best_table
from heliograph_tune.records import Asked, Finished, Over, Record
from heliograph_tune.report import render
from heliograph_tune.search_file import Search
from heliograph_tune.setting import with_settings
from heliograph_tune.standings import standings
from heliograph_tune.trials_to_run import by_score, population_trials
from searches import ended, make_search, steps
from test_report import Page

SPACE: dict[str, Any] = {
    "train.lr": {"type": "log_uniform", "low": 1e-4, "high": 1e-2},
    "train.dropout": {"type": "uniform", "low": 0.1, "high": 0.5},
    "train.weight_decay": {"type": "choice", "values": [0.0, 0.01, 0.1]},
}
POPULATION, INTERVAL = 4, 2


def pbt_search(folder: Path, **changes: Any) -> Search:
    settings = {
        "search": "item_lm",
        "space": SPACE,
        "scheduler": "pbt",
        "pbt": {"population": POPULATION, "interval": INTERVAL},
        "overrides": ["train.epochs=7", "train.patience=4"],
        "budget": {"minutes": 10},
    }
    return make_search(folder, **settings | changes)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return pbt_search(tmp_path_factory.mktemp("population"))


class Bench:
    """Hands a population's trials out and ends them, without training anything."""

    def __init__(self, search: Search, record: Record | None = None) -> None:
        self.record = record or Record()
        self.trials = population_trials(search, self.record, self.record.note)

    def hand_out(self) -> list[Asked]:
        """Return all trials that can be at work now."""
        return list(iter(lambda: next(self.trials, None), None))

    def end(self, asked: Asked, *curve: float, **changes: Any) -> None:
        """End a trial; of a curve, the part of its parent comes first."""
        end = ended(asked, max(curve, default=0.0), steps=steps(*curve), **changes)
        self.record.note(end)


def curve_of(asked: Asked) -> list[float]:
    """Learn steadily, the better the higher the place."""
    assert asked.member is not None
    return [0.1 + 0.01 * epoch + 0.1 * asked.member.place for epoch in range(1, 8)][
        : asked.settings["train.epochs"]
    ]


def train_all(bench: Bench) -> None:
    while there := bench.hand_out():
        for asked in there:
            bench.end(asked, *curve_of(asked) if asked.member else (0.05,))


scores = st.lists(st.none() | st.floats(0, 1), min_size=2, max_size=20).filter(any)


@given(scores, st.floats(0.01, 0.5), st.integers(0, 9))
def test_only_the_worst_and_the_failed_take_over_and_only_from_the_best(
    scores: list[float | None], share: float, seed: int
) -> None:
    found = parents(scores, share, np.random.default_rng(seed))
    some = max(1, int(share * len(scores)))
    assert list(found) == list(range(len(scores)))
    replaced = [place for place, parent in found.items() if place != parent]
    failed = [place for place, score in enumerate(scores) if score is None]
    assert set(failed) <= set(replaced)
    assert len(replaced) <= max(some, len(failed))
    ranked = sorted((score for score in scores if score is not None), reverse=True)
    for place in replaced:
        theirs, own = scores[found[place]], scores[place]
        assert theirs is not None
        assert theirs in ranked[:some]
        assert own is None or own <= theirs


@given(
    lr=st.floats(1e-4, 1e-2),
    dropout=st.floats(0.1, 0.5),
    decay=st.sampled_from([0.0, 0.01, 0.1]),
    seed=st.integers(0, 99),
)
def test_what_a_copy_tries_lies_nearby_and_within_the_bounds(
    search: Search, lr: float, dropout: float, decay: float, seed: int
) -> None:
    space = search.space
    values = {"train.lr": lr, "train.dropout": dropout, "train.weight_decay": decay}
    near = explore(space, values, 0.0, np.random.default_rng(seed))
    for path, low, high in (("train.lr", 1e-4, 1e-2), ("train.dropout", 0.1, 0.5)):
        allowed = [min(max(values[path] * factor, low), high) for factor in (0.8, 1.2)]
        assert near[path] in allowed
    places = [0.0, 0.01, 0.1]
    assert abs(places.index(near["train.weight_decay"]) - places.index(decay)) <= 1
    anew = explore(space, values, 1.0, np.random.default_rng(seed))
    assert space.drawn_for(anew) is not None


def test_the_next_generation_waits_for_the_whole_of_the_last(search: Search) -> None:
    bench = Bench(search)
    first = bench.hand_out()
    assert [asked.number for asked in first] == [0, 1, 2, 3, 4]
    assert [asked.settings.get("train.epochs") for asked in first] == [None, 2, 2, 2, 2]
    for asked in first[1:4]:
        bench.end(asked, *curve_of(asked))
    assert bench.hand_out() == []
    bench.end(first[4], *curve_of(first[4]))  # trial 0 is waited for by nobody
    second = bench.hand_out()
    assert [asked.settings["train.epochs"] for asked in second] == [4] * POPULATION


@pytest.mark.parametrize("place", range(POPULATION))
def test_a_population_goes_on_without_a_trial_whose_line_was_deleted(
    search: Search, place: int
) -> None:
    bench = Bench(search)
    for _ in range(2):  # two generations
        for asked in bench.hand_out():
            bench.end(asked, *curve_of(asked) if asked.member else (0.05,))
    lost = generation_of(bench.record, 1)[place].number
    events: list[Asked | Finished] = [*bench.record.asked.values()]
    events += bench.record.finished.values()
    rest = Bench(search, Record(event for event in events if event.number != lost))
    train_all(rest)
    assert not rest.record.open
    assert len({asked.number for asked in rest.record.asked.values()}) == 1 + 4 * POPULATION
    for event in (Over(phase="search"), Over(phase="repeat")):
        rest.record.note(event)
    assert "Every trial, in order" in render(search, rest.record, "item-lm-1")


def test_a_copy_has_its_parents_past_and_then_changes(search: Search) -> None:
    bench = Bench(search)
    for asked in bench.hand_out():
        bench.end(asked, *curve_of(asked) if asked.member else (0.05,))
    copy, *others = bench.hand_out()
    best = bench.record.asked[4]
    assert copy.member is not None
    assert copy.member.parent == best.number
    (change,) = copy.settings["train.schedule"]
    assert change.pop("epoch") == INTERVAL + 1
    assert {f"train.{name}": value for name, value in change.items()}.items() <= latest(
        copy.settings
    ).items()
    for path in SPACE:
        assert copy.settings[path] == best.settings[path]
    for asked in others:
        assert asked.member is not None
        assert asked.member.parent == 1 + asked.member.place
        assert asked.settings["train.schedule"] == []


def test_a_search_ends_with_the_epochs_and_each_trial_is_a_configuration(search: Search) -> None:
    bench = Bench(search)
    train_all(bench)
    assert generations(search) == 4  # the last one is of a single epoch
    assert len(bench.record.asked) == most_trials(search) == 17
    assert {a.settings["train.epochs"] for a in generation_of(bench.record, 4).values()} == {7}
    for asked in bench.record.asked.values():
        config = with_settings(search.config, asked.settings)
        if asked.member:
            assert config.train.patience == config.train.epochs
            assert config.train.max_minutes is None


def test_a_budget_in_trials_is_spent_in_whole_generations(tmp_path: Path) -> None:
    search = pbt_search(tmp_path, budget={"trials": 12})
    bench = Bench(search)
    train_all(bench)
    assert len(bench.record.asked) == most_trials(search) == 9


def test_patience_is_that_of_the_whole_population(search: Search) -> None:
    bench = Bench(search)
    curve = [0.1, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4]
    while there := bench.hand_out():
        for asked in there:
            bench.end(asked, *curve[: asked.settings.get("train.epochs", 7)])
    assert not follows(search, bench.record, 4)  # the best was epoch 2, and 6 are over
    assert max(a.member.generation for a in bench.record.asked.values() if a.member) == 3


def test_a_member_that_fails_is_replaced_and_all_failing_end_the_search(search: Search) -> None:
    bench = Bench(search)
    for asked in bench.hand_out():
        if asked.number in (3, 4):
            bench.end(asked, state="failed", metrics={})
        else:
            bench.end(asked, *curve_of(asked) if asked.member else (0.05,))
    second = bench.hand_out()
    assert [asked.member and asked.member.parent for asked in second] == [1, 2, 2, 2]
    for asked in second:
        bench.end(asked, state="failed", metrics={})
    assert bench.hand_out() == []
    assert not follows(search, bench.record, 3)


@given(killed_after=st.integers(0, 16))
def test_whoever_goes_on_after_a_kill_asks_for_the_same(search: Search, killed_after: int) -> None:
    whole = Bench(search)
    train_all(whole)
    cut = Record()
    ends = list(whole.record.finished.values())[:killed_after]
    for end in ends:
        cut.note(whole.record.asked[end.number])
        cut.note(end)
    again = Bench(search, cut)
    train_all(again)
    assert again.record.asked == whole.record.asked


def test_a_checkpoint_is_kept_until_all_who_go_on_from_it_have_ended(search: Search) -> None:
    bench = Bench(search)
    for asked in bench.hand_out():
        bench.end(asked, *curve_of(asked) if asked.member else (0.05,))
    assert list(without_heirs(bench.record, POPULATION)) == []
    second = bench.hand_out()
    assert list(without_heirs(bench.record, POPULATION)) == [1]  # replaced: nobody goes on from it
    for asked in second[:-1]:
        bench.end(asked, *curve_of(asked))
    assert list(without_heirs(bench.record, POPULATION)) == [1, 2, 3]
    bench.end(second[-1], *curve_of(second[-1]))
    assert list(without_heirs(bench.record, POPULATION)) == [1, 2, 3, 4]


def test_each_course_counts_once_up_to_where_it_last_got_better(search: Search) -> None:
    bench = Bench(search)
    for asked in bench.hand_out():
        bench.end(asked, *((0.1, 0.2 + asked.number / 100) if asked.member else (0.05,)))
    for asked in bench.hand_out():
        assert asked.member is not None and asked.member.parent is not None
        before = bench.record.finished[asked.member.parent].metrics["ndcg@10"]
        bench.end(asked, 0.1, before, 0.1, 0.6 if asked.member.place == 2 else 0.1)
    # trial 3 got better as trial 7; trials 2 and 4 did not; trial 1 was not gone on from
    assert by_score(search, bench.record) == [7, 4, 2, 1, 0]
    assert [asked.number for asked in lineage(bench.record, 7)] == [3, 7]
    assert lineage(bench.record, 0) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"search": "als", "space": {}}, "pbt judges by epoch, but als has none; use fifo"),
        ({"objectives": ["ndcg@20"]}, r"pbt judges by ndcg@10, .* use scheduler: fifo"),
        (
            {"space": {"train.averaging": {"type": "uniform", "low": 0.9, "high": 0.99}}},
            "train.averaging cannot change while a model trains; pbt searches train.lr, "
            "train.weight_decay, train.dropout",
        ),
        (
            {"space": SPACE | {"train.dropout": {
                "type": "uniform", "low": 0, "high": 0.5, "where": {"train.weight_decay": [0.0]},
            }}},
            "train.dropout: pbt knows no conditions",
        ),
        ({"budget": {"trials": 4}}, "one generation of 4 are 5 trials; raise it"),
        ({"warm_start": "."}, "pbt learns from no earlier run"),
        ({"pbt": {"population": 1}}, "greater than or equal to 2"),
        ({"pbt": {"share": 0.6}}, "less than or equal to 0.5"),
        ({"scheduler": "asha"}, "pbt: needs scheduler: pbt"),
        ({"overrides": ["train.epochs=2"]}, "lower pbt.interval or raise train.epochs"),
        ({"overrides": ["train.schedule=[{epoch: 2, lr: 0.1}]"]}, "pbt finds one of its own"),
    ],
)  # fmt: skip
def test_a_search_that_no_population_can_do_is_refused(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why):
        pbt_search(tmp_path, **changes)


def test_the_report_shows_the_way_of_the_winner(search: Search) -> None:
    bench = Bench(search)
    train_all(bench)
    bench.record.note(Over(phase="search"))
    html = render(search, bench.record, "population")
    winner = standings(search, bench.record)[0].number
    way = lineage(bench.record, winner)
    page = Page(html)
    rows = [row for row in page.rows if row[0] in ("1 to 2", "3 to 4", "5 to 6", "7 to 7")]
    assert [row[1] for row in rows] == [str(asked.number) for asked in way]
    assert rows[0][-1] == "at random, with settings that were drawn"
    assert {row[-1] for row in rows[1:]} <= {"went on"} | {
        f"a copy of trial {asked.number}, with settings changed" for asked in way
    }
    assert "a population of 4" in page.text


def test_the_table_of_the_best_leaves_out_what_all_members_have_alike(search: Search) -> None:
    bench = Bench(search)
    train_all(bench)
    written = io.StringIO()
    Console(file=written, width=200).print(best_table(search, bench.record))
    shown = written.getvalue()
    assert "epochs=7" in shown
    assert "schedule=[]" not in shown
    assert "patience" not in shown
    assert "max_minutes" not in shown
    assert as_text({"schedule": [{"epoch": 3, "lr": 2e-3 / 3}]}) == (
        "schedule=[{epoch: 3, lr: 0.0006667}]"
    )
