"""What the evaluation in a bundle found, as the report's sections ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.bundle import METRICS_FILE, Bundle
from heliograph.cohorts import CohortRow
from heliograph.ranking.fitting import CohortEvidence
from heliograph.significance import PairedDifference
from heliograph.verdict import DECISIVE_K, PIPELINE, Verdict
from heliograph.workspace import InputError

FUSED = (PIPELINE, "retrieval")
"""Several models together; every other row of a verdict is a single model."""


@dataclass(frozen=True)
class Evidence:
    """The evaluation of a bundle."""

    users: int
    items: int
    cohorts: list[CohortEvidence]
    test: Verdict
    """Of models fitted on train only."""

    refit: Verdict | None
    """Of the same test items, by models fitted on train and validation; None: no refit was done."""

    ratings: dict[str, dict[str, float]]
    """Model -> errors of its predicted ratings; empty where events have no values."""

    @property
    def served(self) -> Verdict:
        """The verdict on the models that the bundle holds."""
        return self.refit or self.test


def read_evidence(bundle: Bundle) -> Evidence:
    """Read the evaluation of a bundle.

    Raises:
        InputError: It is in the format of another version of heliograph.
    """
    metrics = bundle.metrics()
    try:
        return Evidence(
            users=metrics["users"],
            items=metrics["items"],
            cohorts=[CohortEvidence(**row) for row in metrics["cohorts"]],
            test=_verdict(metrics["test"]),
            refit=_verdict(metrics["refit"]) if metrics.get("refit") else None,
            ratings=metrics["ratings"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"bundle {bundle.folder}: {METRICS_FILE} is not in the format of this heliograph "
            f"({error}); the bundle was written by heliograph {bundle.version}, build it again"
        ) from error


def cutoffs(verdict: Verdict) -> list[int]:
    """Return every k of a verdict, ascending."""
    return sorted({int(name.partition("@")[2]) for row in verdict.models.values() for name in row})


def main_cutoff(verdict: Verdict) -> int:
    """Return the k of which the report speaks in words: the decisive one if it was measured."""
    ks = cutoffs(verdict)
    return DECISIVE_K if DECISIVE_K in ks else ks[-1]


def best_single(verdict: Verdict) -> str | None:
    """Return the single model of the highest NDCG, None if no model but fused ones was judged."""
    k = main_cutoff(verdict)
    singles = {name: row for name, row in verdict.models.items() if name not in FUSED}
    if verdict.lead:
        return max(singles, key=lambda name: verdict.lead[name].difference, default=None)
    return max(singles, key=lambda name: singles[name][f"ndcg@{k}"], default=None)


def _verdict(content: Mapping[str, Any]) -> Verdict:
    return Verdict(
        models=content["models"],
        lead={name: PairedDifference(**row) for name, row in content["lead"].items()},
        cohorts={
            kind: {name: [CohortRow(**row) for row in rows] for name, rows in models.items()}
            for kind, models in content["cohorts"].items()
        },
    )
