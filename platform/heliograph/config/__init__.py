"""Every setting, spelled once: its type, bounds, default and meaning.

A configuration is data. It knows nothing about how a stage uses a value, nor of the file that it
is read from (`config_file`); the stages know nothing about either.
"""

from __future__ import annotations

from pydantic import Field

from heliograph.config.base import (
    Config,
    Folder,
)
from heliograph.config.data import (
    CLOCK_SKEW_US,
    EmbeddingConfig,
    EventsConfig,
    ItemsConfig,
    SplitName,
    SplitsConfig,
    TableConfig,
    names_folder,
)
from heliograph.config.models import (
    SCHEDULED,
    SOURCE_NAMES,
    AlsConfig,
    ItemLMConfig,
    ModelsConfig,
    PopularityConfig,
    Proposer,
    RatingsConfig,
    SourceName,
    TextConfig,
    TrainChange,
    TrainConfig,
    TransitionsConfig,
)
from heliograph.config.ranking import (
    CandidatesConfig,
    EvaluationConfig,
    IndexConfig,
    RankingConfig,
)
from heliograph.config.serving import (
    DeploymentConfig,
    Freshness,
    LimitsConfig,
    Rules,
    ServeConfig,
)

__all__ = [
    "AlsConfig",
    "CLOCK_SKEW_US",
    "CandidatesConfig",
    "Config",
    "DeploymentConfig",
    "EmbeddingConfig",
    "EvaluationConfig",
    "EventsConfig",
    "Freshness",
    "HeliographConfig",
    "IndexConfig",
    "ItemLMConfig",
    "ItemsConfig",
    "LimitsConfig",
    "ModelsConfig",
    "PopularityConfig",
    "Proposer",
    "RankingConfig",
    "RatingsConfig",
    "Rules",
    "SCHEDULED",
    "SOURCE_NAMES",
    "ServeConfig",
    "SourceName",
    "SplitName",
    "SplitsConfig",
    "TableConfig",
    "TextConfig",
    "TrainChange",
    "TrainConfig",
    "TransitionsConfig",
    "names_folder",
]


class HeliographConfig(Config):
    """One recommender, from raw files to the endpoint."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9-]*$")
    workspace: Folder
    """Folder for everything the stages write."""

    seed: int = 7
    refit: bool = True
    """Fit the served models once more, on train and validation, with all else frozen."""

    items: ItemsConfig
    events: EventsConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    models: ModelsConfig = ModelsConfig()
    train: TrainConfig = TrainConfig()
    index: IndexConfig = IndexConfig()
    candidates: CandidatesConfig = CandidatesConfig()
    ranking: RankingConfig = RankingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    splits: SplitsConfig = SplitsConfig()
    serve: ServeConfig = ServeConfig()
