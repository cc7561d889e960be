"""Which settings mattered.

PED-ANOVA: how unlike the values of the best trials are to those of all. Watanabe, Bansal, Hutter:
PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces, IJCAI 2023.
"""

from __future__ import annotations

import math

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from heliograph_tune.records import Record
from heliograph_tune.search_file import Search, is_minimised

FEWEST = 8
"""Trials below which nothing can be said."""

BEST_SHARE = 0.1
"""Of all trials, the best ones: what their values are like is compared with all others'."""


def importance_of(search: Search, record: Record) -> dict[str, float]:
    """Return the share of each setting that every trial draws; nothing where trials are too few.

    Only trials that ran to their end count, by the first objective.
    """
    objective = search.settings.objectives[0]
    study = optuna.create_study(direction="minimize" if is_minimised(objective) else "maximize")
    for asked in record.of("search"):
        score = record.score(asked.number, objective)
        if record.finished[asked.number].state != "done" or asked.drawn is None or score is None:
            continue
        distributions = search.space.distributions(asked.drawn)
        study.add_trial(
            optuna.trial.create_trial(
                value=score, params=dict(asked.drawn), distributions=distributions
            )
        )
    trials = study.get_trials(deepcopy=False)
    always = [
        path
        for path in search.space.parameters
        if all(path in trial.params for trial in trials)
        and len({trial.params[path] for trial in trials}) > 1
    ]
    if len(trials) < FEWEST or not always or not _some_are_best(study):
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    return dict(get_param_importances(study, evaluator=evaluator, params=always))


def _some_are_best(study: optuna.Study) -> bool:
    """Tell whether the best tenth, with all that equal it, is less than all trials."""
    values = sorted(trial.value or 0.0 for trial in study.get_trials(deepcopy=False))
    if study.direction == optuna.study.StudyDirection.MAXIMIZE:
        values.reverse()
    return values[math.ceil(BEST_SHARE * len(values)) - 1] != values[-1]
