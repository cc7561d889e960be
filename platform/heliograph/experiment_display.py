"""What the command line shows of experiments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # with scipy, which a list of experiments does not need
    from heliograph.experiment_report import ExperimentReport, Measure
    from heliograph.lift import Lift, SampleRatio

HEADINGS: dict[Measure, str] = {
    "converted": "users who converted",
    "events": "events a user",
    "value": "value a user",
}


def runs(found: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the runs of experiments."""
    table = Table("experiment", "control", "treatment", "share", "started", "ended")
    for run in found:
        ended = "[green]goes on[/green]" if run["goes_on"] else run["ended"] or "with its graph"
        table.add_row(
            escape(run["name"]),
            escape(run["control"]),
            escape(run["treatment"]),
            f"{run['share']:.0%}",
            run["started"],
            ended,
        )
    return table


def report(found: ExperimentReport) -> Iterable[RenderableType]:
    """Lay out a report, line by line: the arms, the lift, and what there is to say against them.

    What forbids to believe any of it comes first.
    """
    if found.ratio.is_broken:
        yield _ratio(found.ratio)
    yield _arms(found)
    if found.lifts:
        yield _lifts(found.lifts)
    if found.too_early is not None:
        yield f"[yellow]too early to tell:[/yellow] {found.too_early}"
    if not found.ratio.is_broken:
        yield _ratio(found.ratio)
    if found.in_both:
        yield f"[yellow]{found.in_both} users were answered from both bundles and left out[/yellow]"
    if still := sum(arm.open_users for arm in found.arms.values()):
        yield f"{still} users can still convert: their time is not over"


def _arms(found: ExperimentReport) -> Table:
    asked = found.question
    items = "items shown" if asked.attribution == "shown" else "any item"
    goals = escape(", ".join(asked.goals))
    table = Table(title=f"{escape(asked.experiment)}: {goals} of {items}, {_days(asked.within_s)}")
    table.add_column("")
    for heading in ("users", "answers", "generative", "converted", "of users", "events a user"):
        table.add_column(heading, justify="right")
    table.add_column("value a user", justify="right")
    for name, arm in found.arms.items():
        table.add_row(
            name,
            f"{arm.users:,}",
            f"{arm.exposures:,}",
            f"{arm.generative / arm.exposures:.0%}" if arm.exposures else "-",
            f"{arm.converters:,}",
            f"{arm.means['converted']:.2%}",
            f"{arm.means['events']:.4g}",
            f"{arm.means['value']:.4g}",
        )
    return table


def _lifts(lifts: Mapping[Measure, Lift]) -> Table:
    table = Table("", "lift", "95 %", "difference", "95 % of it", "p", title="Treatment - control")
    for measure, one in lifts.items():
        table.add_row(
            HEADINGS[measure],
            "-" if one.relative is None else f"{one.relative:+.1%}",
            _interval(one.relative_low, one.relative_high, ".1%"),
            f"{one.difference:+.4g}",
            _interval(one.low, one.high, ".4g"),
            f"{one.p_value:.2g}",
        )
    return table


def _ratio(ratio: SampleRatio) -> str:
    shares = f"{ratio.share:.2%} of the users in the treatment, {ratio.expected_share:.2%} expected"
    if ratio.p_value is None:
        return f"{shares}; too few to check"
    if ratio.is_broken:
        return (
            f"[red]the arms are not divided as they should be:[/red] {shares}, "
            f"p {ratio.p_value:.2g}; do not trust the lift before you know why"
        )
    return f"{shares}: as it should be (p {ratio.p_value:.2g})"


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "-" if low is None or high is None else f"{low:+{form}} to {high:+{form}}"


def _days(within_s: float) -> str:
    unit, size = next(
        (unit, size)
        for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
        if within_s >= size or unit == "s"
    )
    return f"within {within_s / size:g} {unit} of the first exposure"
