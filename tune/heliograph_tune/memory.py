"""Which of many trials TPE goes by: the best ones and the latest.

It compares every draw with every trial that it knows, so a proposal takes as long as there are
trials, and thousands of cheap ones would wait for it. More than a few hundred tell it little:
however many it knows it takes the same few for good, and of the others the older ones count less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

REMEMBERED = 250
"""Trials that are kept, those at work beside them."""

FORGETS_AT = 2 * REMEMBERED
"""Trials at which the others are forgotten: seldom, because it takes as long as a few proposals."""

GOOD = 25
"""Trials that TPE takes for good, once it knows ten times as many."""


def remembered(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> list[FrozenTrial]:
    """Return the best trials, the latest and those at work, in their order.

    Args:
        trials: Of a study, in order.
        directions: Of its objectives.
    """
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    kept = {trial.number for trial in best(ended, directions)[:GOOD]}
    for trial in reversed(ended):
        if len(kept) >= REMEMBERED:
            break
        kept.add(trial.number)
    return [trial for trial in trials if trial.number in kept or trial.state == TrialState.RUNNING]


def best(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """Return trials that came to a value, the best one first, stopped ones last.

    Of several objectives those are best that the fewest others beat, of stopped trials those that
    went furthest.
    """
    sign = np.array([1 if way == StudyDirection.MINIMIZE else -1 for way in directions])
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    losses = sign * np.array([trial.values for trial in done]).reshape(len(done), len(sign))
    no_worse = (losses[None] <= losses[:, None]).all(axis=2)
    better = (losses[None] < losses[:, None]).any(axis=2)
    beaten = np.count_nonzero(no_worse & better, axis=1)
    stopped = [
        (-step, sign[0] * value, trial.number, trial)
        for trial in trials
        if trial.state == TrialState.PRUNED and trial.intermediate_values
        for step, value in [max(trial.intermediate_values.items())]
    ]
    ranked = [done[place] for place in np.argsort(beaten, kind="stable")]
    return ranked + [trial for *_, trial in sorted(stopped, key=lambda row: row[:3])]
