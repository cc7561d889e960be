"""From candidates to a ranking, and to the figures by which it is judged."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from heliograph.config.base import Config
from heliograph.config.models import SourceName


class CandidatesConfig(Config):
    """How sources propose candidates."""

    count: int = Field(default=100, ge=1, le=1000)
    """Candidates whose evidence the ranking model weighs; all others have that of the last."""

    depth: int = Field(default=100, ge=1)
    """Items each source proposes."""

    weights: dict[SourceName, float] | None = None
    """Of each source's evidence beside the item LM's log-probability, the same for everyone; null:
    fitted on validation, for each cohort."""


class RankingConfig(Config):
    """How the weights of the evidence are fitted on the validation items."""

    cohorts: tuple[int, ...] = (1, 6, 11, 21, 51)
    """Shortest history of each cohort, ascending; a cohort may get weights of its own."""

    min_users: int = Field(default=200, ge=2)
    """A cohort of fewer validation users has the weights of all."""

    max_users: int = Field(default=10_000, ge=1)
    """Validation users to fit on: a random sample (seeded) of so many where there are more."""

    significance: float = Field(default=0.05, gt=0, le=1)
    """A cohort's own weights are taken if the held-out gain has a p value below this."""

    @model_validator(mode="after")
    def _cohorts_ascend(self) -> Self:
        if (
            not self.cohorts
            or self.cohorts[0] != 1
            or sorted(set(self.cohorts)) != list(self.cohorts)
        ):
            raise ValueError(f"cohorts must ascend from 1, got {list(self.cohorts)}")
        return self


class EvaluationConfig(Config):
    """Leave-one-out over all items, seen items masked."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(5, 10, 20), min_length=1)
    """Cut-offs of the metrics; 10, by which things are decided, is measured in any case."""

    max_users: int | None = Field(default=None, ge=1)
    """Evaluate a random sample of users (seeded); null: everyone."""
