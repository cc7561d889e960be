"""From the search for candidates to a ranking, and to the figures by which it is judged."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from heliograph.config.base import Config
from heliograph.config.models import SourceName


class IndexConfig(Config):
    """How the items nearest to a vector are found (`docs/operating.md` says which type to take)."""

    type: Literal["flat", "ivf", "hnsw"] = "flat"
    """`flat` looks at every item; `ivf` at lists of items, those whose centres are nearest; `hnsw`
    walks through a graph of near items. An index that cannot be of its type is flat."""

    lists: int | None = Field(default=None, ge=2)
    """Of `ivf`; default: four times the root of the number of items, of 39 items at least."""

    nprobe: int = Field(default=64, ge=1)
    """Lists that `ivf` looks into for a query. Read when a search is made, not in the build."""

    links: int = Field(default=16, ge=2, le=256)
    """Neighbours of an item in the graph of `hnsw`, and twice as many in its lowest layer."""

    ef_construction: int = Field(default=100, ge=1)
    """Nearest items that `hnsw` keeps in mind while it looks for an item's neighbours."""

    ef_search: int = Field(default=800, ge=1)
    """Nearest items that `hnsw` keeps in mind in a search. Read when a search is made."""

    @model_validator(mode="after")
    def _lists_suffice(self) -> Self:
        if self.lists is not None and self.nprobe > self.lists:
            raise ValueError(
                f"nprobe {self.nprobe} is more than there are lists, {self.lists}; lower nprobe or "
                "raise lists"
            )
        return self

    @property
    def searched(self) -> Self:
        """With defaults for what its type does not read: equal ones find the same."""
        return self._with_only(READ_BY[self.type])

    @property
    def built(self) -> Self:
        """With defaults for what the build does not read: equal ones build the same."""
        return self._with_only(READ_BY[self.type] - READ_IN_SEARCH)

    def _with_only(self, names: set[str]) -> Self:
        fields = type(self).model_fields.items()
        others = {name: field.default for name, field in fields if name not in names}
        return self.model_copy(update=others | {"type": self.type})


READ_BY = {
    "flat": set[str](),
    "ivf": {"lists", "nprobe"},
    "hnsw": {"links", "ef_construction", "ef_search"},
}
"""Settings of each type of index."""

READ_IN_SEARCH = {"nprobe", "ef_search"}
"""Settings that an index is searched with, however it was built."""


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
