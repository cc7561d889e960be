"""What the command line shows of a search at work: the best so far, and how long it will take."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from heliograph_tune import repetition
from heliograph_tune.goal import keeps, said
from heliograph_tune.population import generations, most_trials
from heliograph_tune.records import Asked, Finished, Record, Step
from heliograph_tune.search_file import Search, SearchConfig
from heliograph_tune.standings import standings
from heliograph_tune.trials_to_run import BASELINE, by_score

if TYPE_CHECKING:
    from heliograph.significance import PairedDifference
    from heliograph_tune.promote import Promotion

SHOWN = 5
"""Configurations in the table."""

SAID_EVERY_S = 60.0
"""Where nothing can be redrawn: between two lines."""


class SearchProgress:
    """A table of the best trials and a line of counts, redrawn as trials report.

    In a file or a pipe, where nothing can be redrawn, it is a line each minute.
    """

    def __init__(self, console: Console, search: Search, record: Record) -> None:
        """Begin with what an earlier sitting has recorded."""
        self.search = search
        self.record = record
        self.steps: dict[int, Step] = {}
        self._spent = record.spent_s
        self._began: float | None = None
        self._said = -math.inf
        self._console = console
        self._lock = threading.Lock()  # the table is drawn in a thread of its own
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._began is not None:
            self._live.stop()

    def watch(self, number: int, event: Asked | Finished | Step) -> None:
        """Hear of what happens to the trial of a number."""
        if self._began is None:
            self._began = time.monotonic()
            self._live.start()
        with self._lock:
            if isinstance(event, Step):
                self.steps[number] = event
                return
            self.record.note(event)
            if isinstance(event, Finished):
                self.steps.pop(number, None)
                self._say_seldom()

    def _say_seldom(self) -> None:
        now = time.monotonic()
        if self._console.is_terminal or now < self._said + SAID_EVERY_S:
            return
        self._said = now
        self._console.print(f"{self._best()}{self._line()}", soft_wrap=True, highlight=False)

    def _best(self) -> str:
        """Say which trial is ahead, if any is."""
        ranked = by_score(self.search, self.record)
        if not ranked:
            return ""
        metrics = self.record.finished[ranked[0]].metrics
        name = "as it stands" if ranked[0] == BASELINE else f"trial {ranked[0]}"
        return f"best: {name}, {reached(self.search.settings, metrics)}; "

    def _draw(self) -> Group:
        with self._lock:
            return Group(best_table(self.search, self.record), Text(self._line()))

    def _line(self) -> str:
        states = [finished.state for finished in self.record.finished.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        running = [asked.number for asked in self.record.open]
        at = ", ".join(
            f"{number} at step {self.steps[number].step}" if number in self.steps else f"{number}"
            for number in running
        )
        spent = self._spent + time.monotonic() - (self._began or time.monotonic())
        return (
            f"{self._generation()}{counts or 'no trial has ended'}; running: {at or 'none'}; "
            f"{_clock(spent)} spent, {_left(seconds_left(self.search, self.record, spent))}"
        )

    def _generation(self) -> str:
        """Say how far a population has come."""
        members = [asked.member for asked in self.record.open if asked.member]
        if not members:
            return ""
        return f"generation {members[-1].generation} of {generations(self.search)}; "


def seconds_left(search: Search, record: Record, spent: float) -> float | None:
    """Return how long a search will take from now on, its repetitions included; None: nobody knows.

    Args:
        search: At work.
        record: What has happened.
        spent: Wall time so far, in seconds.
    """
    budget = search.settings.budget
    searched, repeated = (
        [record.finished[asked.number] for asked in record.of(phase)]
        for phase in ("search", "repeat")
    )
    left = [] if budget.minutes is None else [max(60 * budget.minutes - spent, 0.0)]
    most = most_trials(search)
    if most is not None and searched:
        left.append(spent / len(searched) * max(most - len(searched), 0))
    if any(asked.phase == "repeat" for asked in record.asked.values()):
        left = [0.0]  # the search itself is over, and the best are run again
    worked = sum(end.seconds for end in (*searched, *repeated))
    whole = [end.seconds for end in (*searched, *repeated) if end.state == "done"]
    if not left or not whole or not worked:
        return min(left, default=None)
    again = max(repetition.runs(search) - len(repeated), 0)
    wall = spent / worked  # less than 1 where several are at work at once
    return min(left) + again * wall * sum(whole) / len(whole)


def _left(seconds: float | None) -> str:
    return "time left unknown" if seconds is None else f"about {_clock(seconds)} left"


def best_table(search: Search, record: Record) -> Table:
    """Lay out the best configurations so far."""
    objectives = search.settings.objectives
    caption = repetition.told(search) if repetition.is_without_luck(search) else None
    table = Table(title=f"{search.settings.name}: best so far", caption=caption)
    columns = ("trial", *objectives, repetition.column(search), "seconds", "differs in")
    for column in columns[:-1]:
        table.add_column(column, justify="right")
    table.add_column(columns[-1], overflow="fold")
    repeated = {standing.number: standing for standing in standings(search, record)}
    ranked = list(repeated) if record.is_complete else by_score(search, record)
    shown = ranked[:SHOWN]
    if BASELINE in ranked and BASELINE not in shown:
        shown.append(BASELINE)
    for number in shown:
        end = record.finished[number]
        others = repeated[number].repeated if number in repeated else ()
        table.add_row(
            "as it stands" if number == BASELINE else str(number),
            *(cell(end, name) for name in objectives),
            f"{sum(others) / len(others):.4f} ({len(others)})" if others else "",
            f"{end.seconds:.1f}",
            escape(as_text(_by_last_name(record.asked[number].told))),
        )
    return table


def cell(end: Finished, objective: str) -> str:
    """Say what a trial came to; one that was stopped was not judged as the others were."""
    if end.state == "stopped":
        return f"stopped at {end.steps[-1].step}" if end.steps else "stopped"
    return figure(end.metrics[objective]) if objective in end.metrics else ""


def _by_last_name(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave the sections out: a terminal is narrow, and the search file has them."""
    return {path.rpartition(".")[2]: value for path, value in settings.items()}


def as_text(settings: dict[str, Any]) -> str:
    """Say settings in one line."""
    return ", ".join(f"{path}={short(value)}" for path, value in settings.items()) or "nothing"


def outcome(search: Search, record: Record, run: Path) -> Iterator[str]:
    """Say what a search that has ended came to, and what can be done next."""
    goal, winner = search.settings.goal, standings(search, record)[0]
    yield f"heliograph tune report {run}"
    if goal:
        came = f"trial {winner.number}, {reached(search.settings, winner.metrics)}"
        if not keeps(goal, winner.metrics):
            yield f"no trial keeps the goal, {said(goal)}; nearest comes {came}"
            return
        yield f"recommended: {came}"
    if winner.is_baseline:
        yield "nothing was better than the configuration as it stands"
    else:
        yield f"heliograph tune promote {run}"


def reached(settings: SearchConfig, metrics: Mapping[str, float]) -> str:
    """Say what a configuration came to in every objective."""
    names = [name for name in settings.objectives if name in metrics]  # time may have cut a trial
    return ", ".join(f"{name} {figure(metrics[name])}" for name in names)


def figure(value: float) -> str:
    """Say a metric: four decimals of what lies between 0 and 1, four digits of all else."""
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:.4g}"


def short(value: Any) -> str:
    """Say a value in few characters."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(short(inner) for inner in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {short(inner)}' for name, inner in value.items())}}}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def promotion_table(promotion: Promotion) -> Table:
    """Lay out what a promotion came to."""
    found = promotion.difference
    title = f"Test NDCG@10 of {found.users:,} users, as served"
    caption = f"{_verdict(found)}{_measured(promotion)}{_read_before(promotion)}"
    table = Table(title=title, caption=caption)
    table.add_column("", overflow="fold")
    for column in ("NDCG@10", "difference (95 %)", "p"):
        table.add_column(column, justify="right")
    before = "as it stands" if promotion.is_against_own else promotion.against
    table.add_row(escape(before), f"{promotion.ndcg_before:.4f}", "", "")
    interval = f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
    name = f"trial {promotion.trial}: {as_text(_by_last_name(promotion.settings))}"
    table.add_row(escape(name), f"{promotion.ndcg:.4f}", interval, f"{found.p_value:.2g}")
    return table


def _measured(promotion: Promotion) -> str:
    """Say what else was measured on validation, a line an objective."""
    before = promotion.reached_before
    return "".join(
        f"\n{name} in trials: {figure(value)}"
        + (f", as it stands {figure(before[name])}" if name in before else "")
        for name, value in promotion.reached.items()
    )


def _read_before(promotion: Promotion) -> str:
    """Say that the test items were read more than once, if they were."""
    if promotion.read_before is None:
        return ""
    return (
        f"\nthe test items were read before: a promotion that began {promotion.read_before} did "
        "not come to its end"
    )


def _verdict(found: PairedDifference) -> str:
    if found.low > 0:
        return "better, by more than luck"
    return "worse: do not serve it" if found.high < 0 else "no difference beyond luck"
