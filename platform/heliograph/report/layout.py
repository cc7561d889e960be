"""The tables and charts of the report's sections, from the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from heliograph.cohorts import CohortRow
from heliograph.config import HeliographConfig
from heliograph.ranking.fitting import CohortEvidence
from heliograph.report.charts import Bar, Group, grouped_bars, line_chart
from heliograph.report.evidence import Evidence, cutoffs, main_cutoff
from heliograph.report.wording import decision, name_of, p_number
from heliograph.verdict import DECISIVE_K, PIPELINE, Verdict

METRICS = {"recall": "recall", "precision": "precision", "f1": "F1", "ndcg": "NDCG", "mrr": "MRR"}
"""With one item to be found, the hit rate is the recall and MAP is MRR."""

PROPERTIES = {
    "coverage": "coverage",
    "gini": "Gini",
    "novelty": "novelty, bits",
    "diversity": "diversity",
    "popularity_bias": "popularity bias",
}

COHORTS = {
    "history": "length of the history",
    "popularity of the target": "popularity of the hidden item",
    "category of the target": "category of the hidden item",
}
"""Kind of cohort -> what the report calls it, in the order in which it is shown."""

SERIES = ("pipeline", "item_lm", "transitions", "popularity")
"""The models that the charts of cohorts compare."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    best: bool = False
    words: bool = False
    """Text rather than a number: aligned left."""


@dataclass(frozen=True)
class Table:
    """A table; each row begins with its name."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class CohortChart:
    """Bars of one kind of cohort."""

    kind: str
    chart: Markup


def comparison(verdict: Verdict, title: str) -> list[Table]:
    """Return a table for each cut-off: every model, the best value of each metric marked."""
    return [_comparison_at(verdict, k, f"{title}, first {k}") for k in cutoffs(verdict)]


def beside(evidence: Evidence) -> Table | None:
    """Set NDCG of models fitted on train only beside that of the refitted ones, if there are."""
    if evidence.refit is None:
        return None
    ks = [k for k in cutoffs(evidence.test) if k in cutoffs(evidence.refit)]
    columns = ["model", *(f"NDCG@{k}, {how}" for k in ks for how in ("train only", "refitted"))]
    both = {
        name: [
            found.models[name][f"ndcg@{k}"] for k in ks for found in (evidence.test, evidence.refit)
        ]
        for name in by_ndcg(evidence.refit, main_cutoff(evidence.refit))
        if name in evidence.test.models
    }
    return Table("The same test items, by models that have seen more", columns, _rows(both))


def by_ndcg(verdict: Verdict, k: int) -> list[str]:
    """Return the models of a verdict, that of the highest NDCG@k first."""
    return sorted(verdict.models, key=lambda name: -verdict.models[name][f"ndcg@{k}"])


def properties(verdict: Verdict, k: int) -> Table:
    """Return what the lists of each model are like; no value is the best, so none is marked."""
    rows = [
        [_name(name), *(Cell(f"{verdict.models[name][f'{key}@{k}']:.3f}") for key in PROPERTIES)]
        for name in by_ndcg(verdict, k)
    ]
    return Table(f"Lists of the first {k}", ["model", *PROPERTIES.values()], rows)


def ratings(errors: Mapping[str, Mapping[str, float]]) -> Table:
    """Return how far predicted ratings are from given ones."""
    best = min(row["rmse"] for row in errors.values())
    rows = [
        [
            _name(name),
            Cell(f"{row['ratings']:,}"),
            Cell(f"{row['rmse']:.4f}", best=row["rmse"] == best),
            Cell(f"{row['mae']:.4f}"),
        ]
        for name, row in errors.items()
    ]
    return Table("Ratings of the hidden items", ["model", "ratings", "RMSE", "MAE"], rows)


def gating(cohorts: Sequence[CohortEvidence], config: HeliographConfig) -> Table:
    """Return why each cohort has its weights: NDCG@10 of its validation items."""
    columns = ["history", "users", "item LM", "retrieval", "both, shared weights"]
    columns += ["both, own weights", "decision", "weights beside the item LM"]
    set_by_hand = config.candidates.weights is not None
    ends = [*(cohort.shortest - 1 for cohort in cohorts[1:]), None]
    rows = []
    for cohort, end in zip(cohorts, ends, strict=True):
        values = [cohort.item_lm, cohort.retrieval, cohort.shared, cohort.own]
        weights = ", ".join(
            f"{name_of(name)} {value:.2g}" for name, value in cohort.weights.items() if value
        )
        rows.append(
            [
                Cell(_lengths(cohort.shortest, end), words=True),
                Cell(f"{cohort.users:,}"),
                *(Cell(_value(value) if cohort.users else "") for value in values),
                Cell(decision(cohort, set_by_hand), words=True),
                Cell(weights or "none: the item LM alone", words=True),
            ]
        )
    return Table("NDCG@10 on the validation items, by length of history", columns, rows)


def cohort_charts(verdict: Verdict) -> list[CohortChart]:
    """Draw NDCG@10 by cohort, a chart for each kind of cohort."""
    charts = []
    for kind in (kind for kind in COHORTS if kind in verdict.cohorts):
        models = verdict.cohorts[kind]
        told = ", ".join(f"{row.cohort} {row.mean:.3f}" for row in models[PIPELINE])
        label = f"NDCG@10 by {COHORTS[kind]}; of the pipeline: {told}"
        charts.append(CohortChart(COHORTS[kind], grouped_bars(_groups(models), label)))
    return charts


def learning_curve(epochs: Sequence[dict[str, Any]]) -> list[Markup]:
    """Draw loss and, where it was measured, validation NDCG@10 by epoch."""
    if not epochs:
        return []
    scores = [epoch["validation_ndcg"] for epoch in epochs]
    known = [score for score in scores if score is not None]
    best = scores.index(max(known)) if len(known) == len(epochs) else None
    drawn = [("training loss, nats", [epoch["loss"] for epoch in epochs])]
    if best is not None:
        drawn.append(("NDCG@10 on validation", known))
    return [
        line_chart(
            values,
            f"{title} by epoch, from {values[0]:.4g} to {values[-1]:.4g} in {len(values)} epochs",
            title,
            best,
        )
        for title, values in drawn
    ]


def _comparison_at(verdict: Verdict, k: int, caption: str) -> Table:
    values = {
        name: [verdict.models[name][f"{metric}@{k}"] for metric in METRICS]
        for name in by_ndcg(verdict, k)
    }
    columns, rows = ["model", *METRICS.values()], _rows(values)
    if k == DECISIVE_K and verdict.lead:
        columns += ["NDCG minus the pipeline's", "95 % interval", "p (Holm)"]
        for name, row in zip(values, rows, strict=True):
            row += _lead_cells(verdict, name)
    return Table(caption, columns, rows)


def _lead_cells(verdict: Verdict, name: str) -> list[Cell]:
    found = verdict.lead.get(name)
    if found is None:
        return [Cell(""), Cell(""), Cell("")]
    interval = f"{found.low:+.4f} to {found.high:+.4f}"
    return [Cell(f"{found.difference:+.4f}"), Cell(interval), Cell(p_number(found.p_adjusted))]


def _rows(values: dict[str, list[float]]) -> list[list[Cell]]:
    """Lay out values of models, the highest of each column marked."""
    best = [max(column) for column in zip(*values.values(), strict=True)]
    return [
        [_name(name), *(Cell(_value(v), v == top) for v, top in zip(row, best, strict=True))]
        for name, row in values.items()
    ]


def _groups(models: dict[str, list[CohortRow]]) -> list[Group]:
    shown = [models[name] for name in SERIES if name in models]
    names = [name for name in SERIES if name in models]
    return [
        Group(
            rows[0].cohort,
            f"{rows[0].users:,} users",
            [Bar(r.mean, r.low, r.high, name) for name, r in zip(names, rows, strict=True)],
        )
        for rows in zip(*shown, strict=True)
    ]


def _lengths(shortest: int, end: int | None) -> str:
    if end is None:
        return f"{shortest} items or more"
    return f"{shortest} to {end} items"


def _name(model: str) -> Cell:
    return Cell(name_of(model), words=True)


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
