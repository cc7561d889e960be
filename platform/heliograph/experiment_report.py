"""The report of an experiment: what the users of each arm did after they were answered.

Every user counts once, in the arm that the hash says, from the first exposure on, whatever tier
answered (intention to treat); so the arms differ in nothing but the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from heliograph.event_store.exposures import Subject, subjects
from heliograph.event_store.store import EventStore
from heliograph.experiments import Arm
from heliograph.lift import Lift, SampleRatio, lift, sample_ratio
from heliograph.workspace import InputError

Attribution = Literal["shown", "any"]
Measure = Literal["converted", "events", "value"]
MEASURES: tuple[Measure, ...] = get_args(Measure)

LEAST_USERS = 100
"""In each arm, before anything is said: means of fewer skewed values are far from normal."""

LEAST_CONVERTERS = 10.0
"""That each arm must be expected to have if there is no difference, for the same reason."""


@dataclass(frozen=True)
class Question:
    """What counts as success."""

    experiment: str
    goals: tuple[str, ...]
    """Types of events."""

    within_s: float
    """Time after a user's first exposure in which they count."""

    attribution: Attribution = "shown"
    """`shown`: only events of items that the user had been shown by then; `any`: of all items."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one user did."""

    arm: Arm
    exposures: int
    generative: int
    """Exposures of that tier."""

    events: int
    value: float
    """Of these events, added up; 0 where they have none."""

    is_open: bool
    """Whether the time that counts is not over."""


@dataclass(frozen=True)
class ArmReport:
    """The users of one arm, added up."""

    users: int
    exposures: int
    generative: int
    """Exposures of that tier: a bundle that fails or is slow has fewer."""

    converters: int
    """Users with one event or more."""

    open_users: int
    """Whose time is not over: they can still convert."""

    means: dict[Measure, float]
    """Over users: share of converters, events, value."""


@dataclass(frozen=True)
class ExperimentReport:
    """What is known of an experiment."""

    question: Question
    arms: dict[Arm, ArmReport]
    ratio: SampleRatio
    in_both: int
    """Users left out because they were answered from both bundles: the name was used twice."""

    too_early: str | None
    """Why nothing is said of a lift; None: it is."""

    lifts: dict[Measure, Lift] = field(default_factory=dict)
    """`value` is there where any event has one."""


async def report(store: EventStore, question: Question, now_us: int) -> ExperimentReport:
    """Join the exposures of an experiment with the events of its users.

    Raises:
        InputError: The store has no exposures of it.
    """
    outcomes: list[Outcome] = []
    in_both = 0
    share = 0.0
    async for some in subjects(store, question.experiment, question.goals):
        for one in some:
            if len({seen.arm for seen in one.seen}) > 1:
                in_both += 1
            else:
                outcomes.append(outcome(one, question, now_us))
                share = _share(one)
    if not outcomes:
        raise InputError(
            f"the store has no exposures of an experiment {question.experiment!r}; see "
            "`heliograph experiment list`, and give the store that the graph uses"
        )
    return compared(outcomes, question, share, in_both)


def outcome(subject: Subject, question: Question, now_us: int) -> Outcome:
    """Count what a user did within the time that counts."""
    first = subject.seen[0].time_us
    end = first + round(question.within_s * 1_000_000)
    shown_at: dict[str, int] = {}
    for seen in subject.seen:
        for item in seen.item_ids:
            shown_at.setdefault(item, seen.time_us)
    counted = [
        deed
        for deed in subject.deeds
        if first <= deed.time_us <= end
        and (question.attribution == "any" or shown_at.get(deed.item_id, end + 1) <= deed.time_us)
    ]
    value = sum(deed.value for deed in counted if deed.value is not None)
    return Outcome(
        arm=subject.seen[0].arm,
        exposures=len(subject.seen),
        generative=sum(seen.tier == "generative" for seen in subject.seen),
        events=len(counted),
        value=value,
        is_open=now_us < end,
    )


def compared(
    outcomes: Sequence[Outcome], question: Question, share: float, in_both: int = 0
) -> ExperimentReport:
    """Compare the arms.

    Args:
        outcomes: One a user, one or more.
        question: That they answer.
        share: Of users meant to be in the treatment.
        in_both: Users who were left out.
    """
    of_arm = {arm: [one for one in outcomes if one.arm == arm] for arm in get_args(Arm)}
    control, treatment = of_arm["control"], of_arm["treatment"]
    too_early = _too_early(control, treatment)
    lifts: dict[Measure, Lift] = {}
    if too_early is None:
        has_values = any(one.value for one in outcomes)
        lifts = {
            measure: lift(
                np.array(_values(control, measure)), np.array(_values(treatment, measure))
            )
            for measure in MEASURES
            if measure != "value" or has_values
        }
    return ExperimentReport(
        question=question,
        arms={arm: _added_up(ones) for arm, ones in of_arm.items()},
        ratio=sample_ratio(len(control), len(treatment), share),
        in_both=in_both,
        too_early=too_early,
        lifts=lifts,
    )


def _too_early(control: Sequence[Outcome], treatment: Sequence[Outcome]) -> str | None:
    fewest = min(len(control), len(treatment))
    if fewest < LEAST_USERS:
        return f"an arm has {fewest} users, and {LEAST_USERS} are the least that says anything"
    converters = sum(one.events > 0 for one in (*control, *treatment))
    expected = fewest * converters / (len(control) + len(treatment))
    if expected < LEAST_CONVERTERS:
        return (
            f"{converters} users in both arms have done what counts, and {LEAST_CONVERTERS:g} in "
            "each are the least that says anything"
        )
    return None


def _values(outcomes: Iterable[Outcome], measure: Measure) -> list[float]:
    if measure == "converted":
        return [float(one.events > 0) for one in outcomes]
    return [float(one.events if measure == "events" else one.value) for one in outcomes]


def _added_up(outcomes: Sequence[Outcome]) -> ArmReport:
    users = len(outcomes)
    return ArmReport(
        users=users,
        exposures=sum(one.exposures for one in outcomes),
        generative=sum(one.generative for one in outcomes),
        converters=sum(one.events > 0 for one in outcomes),
        open_users=sum(one.is_open for one in outcomes),
        means={
            measure: sum(_values(outcomes, measure)) / users if users else 0.0
            for measure in MEASURES
        },
    )


def _share(subject: Subject) -> float:
    """Return the share of the treatment, which follows from any user's propensity."""
    seen = subject.seen[0]
    return seen.propensity if seen.arm == "treatment" else 1 - seen.propensity
