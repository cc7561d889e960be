"""What becomes of a drawn configuration: a judge for each kind of search, shared by its trials."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from heliograph.catalog import Catalogue
from heliograph.config import HeliographConfig
from heliograph.splits import NextItems
from heliograph_tune.knowledge import Knowledge
from heliograph_tune.pipeline_evidence import PipelineEvidence
from heliograph_tune.records import Report
from heliograph_tune.search_file import SECONDS, LoadConfig
from heliograph_tune.visitors import Visitors

if TYPE_CHECKING:
    from heliograph_tune.retrieval_trial import Opinion
    from heliograph_tune.serving_trial import Place


class Judge(Protocol):
    """Knows all that trials may know; goes to the workers once, through the object store."""

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """Return the metrics of a configuration on validation.

        Args:
            config: What was drawn.
            ks: Cut-offs of the metrics.
            checkpoint: Folder to go on from, and to leave something to go on from.
            report: Is told of every step, if there are several.
        """
        ...


@dataclass(frozen=True)
class ModelJudge:
    """Fits one model and judges it by the validation items."""

    model: str
    known: Knowledge

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `Judge`."""
        from heliograph_tune.model_trials import MODEL_TRIALS  # torch takes seconds to import

        return MODEL_TRIALS[self.model](self.known, config, ks, checkpoint, report)


@dataclass(frozen=True)
class PipelineJudge:
    """Puts a pipeline together from what fixed models say."""

    evidence: PipelineEvidence
    cut: int | None = None
    """Where weights are drawn, the seed of the search; see `pipeline_trial`."""

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `Judge`."""
        from heliograph_tune.pipeline_trial import judge_pipeline

        start = time.perf_counter()
        metrics = judge_pipeline(self.evidence, config, ks, self.cut)
        return metrics | {SECONDS: time.perf_counter() - start}


@dataclass(frozen=True)
class RetrievalJudge:
    """Fits the sources anew and puts them together with an item LM that stays as it is."""

    known: Knowledge
    opinion: Opinion
    asked: NextItems
    cut: int | None = None
    """Where weights are drawn, the seed of the search; see `pipeline_trial`."""

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `Judge`."""
        from heliograph_tune.retrieval_trial import judge_retrieval

        start = time.perf_counter()
        metrics = judge_retrieval(self.known, self.opinion, self.asked, config, ks, self.cut)
        return metrics | {SECONDS: time.perf_counter() - start}


@dataclass(frozen=True)
class ServingJudge:
    """Runs the graph with drawn settings and lets users ask it."""

    place: Place
    visitors: Visitors
    load: LoadConfig
    catalogue: Catalogue

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `Judge`."""
        from heliograph_tune.serving_trial import judge_serving  # as does Ray Serve

        return judge_serving(self.place, self.visitors, self.load, config, self.catalogue, ks)
