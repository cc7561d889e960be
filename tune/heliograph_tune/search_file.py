"""The search file: a search is data, checked whole before anything starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from heliograph.config import SCHEDULED, Config, HeliographConfig, TrainConfig
from heliograph.config_file import ConfigError, explain_errors, load_config, read_mapping
from heliograph.evaluation import METRICS
from heliograph_tune.distributions import Distribution
from heliograph_tune.space import Space, check_space

Searched = Literal["als", "text", "transitions", "item_lm", "retrieval", "pipeline", "serving"]
"""What a search can be over: one model, all sources and how they are put together, the pipeline on
top of fitted models, or the running graph."""

READS: dict[Searched, tuple[str, ...]] = {
    "als": ("models.als",),
    "text": ("models.text",),
    "transitions": ("models.transitions",),
    "item_lm": ("models.item_lm", "train"),
    "retrieval": (
        "models.als",
        "models.popularity",
        "models.text",
        "models.transitions",
        "candidates",
        "ranking",
    ),
    "pipeline": ("candidates", "ranking"),
    "serving": (
        "index.nprobe",
        "index.ef_search",
        "candidates.count",
        "candidates.depth",
        "serve.deadline_ms",
        "serve.max_batch_size",
        "serve.batch_wait_ms",
        "serve.kv_cache_mb",
        "serve.engine",
        "serve.engine_threads",
        "serve.rules",
        "serve.limits.under_way",
        "serve.recommend.max_replicas",
        "serve.retrieve.max_replicas",
        "serve.rank.max_replicas",
    ),
}
"""The parts of the configuration that decide the outcome of each."""

NOT_SEARCHED = {
    "train.workers": "each trial trains in one process, and several trials at once",
    "train.device": "it changes where a trial runs, not what comes of it",
    "train.validation_users": "trials that are judged by other users cannot be compared",
}
"""Settings that `READS` names with the rest of their section, and why no search is of them."""

OF_INDEX = {"index.nprobe": "ivf", "index.ef_search": "hnsw"}
"""Settings that one type of index alone reads."""

BY_EPOCH = "ndcg@10"
"""The metric that training of the item LM reports after each epoch."""

BEST = "best"
"""Of a step: the best value of that metric so far, as training keeps its best epoch."""

DEEPEST = 100
"""Largest cut-off of an objective."""

LISTS = ("coverage", "gini")
SECONDS = "seconds"
SERVED = ("p50_ms", "p95_ms", "p99_ms", "requests_per_s", "failed", "generative", "cost")
"""What only the running graph can tell: latencies, the rate of answers, the shares of requests
without one and of answers of the generative tier, and processor seconds for a thousand answers."""

MINIMISED = ("gini", SECONDS, "p50_ms", "p95_ms", "p99_ms", "failed", "cost")
"""Objectives of which less is better; of all others more is."""


Logger = Literal["tensorboard", "mlflow"]


class Budget(Config):
    """What a search may spend; it ends with whichever comes first."""

    trials: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    """Of wall time, without the repetitions at the end."""

    concurrency: int | None = Field(default=None, ge=1)
    """Trials at once; null: as many as the cluster has processors for."""

    cpus: float = Field(default=1, gt=0)
    """Of each trial."""

    gpus: float = Field(default=0, ge=0)
    """Of each trial."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.trials is None and self.minutes is None:
            raise ValueError("the search would never end; set trials, minutes or both")
        return self


class Asha(Config):
    """Asynchronous successive halving (Li et al., MLSys 2020)."""

    grace_epochs: int = Field(default=4, ge=1)
    """No trial is stopped before: those that end best, with much dropout, are slow at first."""

    reduction: int = Field(default=3, ge=2)
    """One in so many goes on at each rung; rungs lie this factor apart."""


class Pbt(Config):
    """Population-based training (Jaderberg et al., arXiv:1711.09846, 2017)."""

    population: int = Field(default=8, ge=2)
    """Models in training."""

    interval: int = Field(default=4, ge=1)
    """Epochs between one comparison of all models and the next."""

    share: float = Field(default=0.25, gt=0, le=0.5)
    """At each comparison the worst share of the population, one model at least, is replaced by
    copies of models of the best share."""

    resample: float = Field(default=0.25, ge=0, le=1)
    """Probability that a setting of a copy is drawn again; else it is multiplied by 0.8 or 1.2."""


class Repeat(Config):
    """The best configurations once more, so that luck does not win."""

    best: int = Field(default=3, ge=0)
    """Configurations; 0: none, the best trial wins."""

    seeds: int = Field(default=3, ge=1)
    """Each configuration is run with so many other seeds; their mean decides."""


class LoadConfig(Config):
    """Who asks the graph in each trial of a serving search."""

    users: int = Field(default=500, ge=1)
    """Of the validation users, a random sample (seeded) of so many: all trials ask the same."""

    clients: int = Field(default=16, ge=1)
    """Requests under way at the same time; each client asks again when it has its answer."""

    seconds: float = Field(default=10, gt=0)
    """Measured for so long, and longer until every user has been asked once."""


class SearchConfig(Config):
    """One search."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9-]*$")
    config: Path
    """The heliograph configuration whose settings are searched."""

    overrides: tuple[str, ...] = ()
    """Such as `train.max_minutes=2`, as with `--set`."""

    search: Searched
    space: dict[str, Distribution]
    """Setting -> what is drawn for it."""

    objectives: tuple[str, ...] = (BY_EPOCH,)
    """The first one decides what is best; with several, the Pareto front is reported."""

    held_out: int = Field(default=1, ge=1, le=100)
    """Items of each user that judge, the newest before the test item; the models of the search are
    fitted on what comes before them. With few users one item of each leaves much to luck."""

    budget: Budget
    searcher: Literal["random", "tpe", "nsga2"] = "tpe"
    """Has no part in pbt."""

    scheduler: Literal["fifo", "asha", "pbt"] | None = None
    """null: asha for the item LM, which reports each epoch, fifo for all else."""

    asha: Asha = Asha()
    pbt: Pbt = Pbt()
    load: LoadConfig = LoadConfig()
    goal: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Objective -> bound, such as `p95_ms: 50`: the best trial is one that keeps all of them."""

    seed: int = 1
    """Of the searcher; trials have the seed of the configuration."""

    repeat: Repeat = Repeat()
    warm_start: Path | None = None
    """Folder of an earlier run of the same objectives, whose trials the searcher knows."""

    loggers: tuple[Logger, ...] = ()
    """Who is told of each trial that ends, besides the run's own files."""

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        for objective in objectives:
            _check_objective(objective)
        if not objectives or len(set(objectives)) < len(objectives):
            raise ValueError(f"name one objective or more, none twice, got {list(objectives)}")
        return objectives

    @model_validator(mode="after")
    def _epochs_can_be_judged(self) -> Self:
        name = "asha" if self.uses_asha else self.scheduler
        if name in ("asha", "pbt") and self.search != "item_lm":
            raise ValueError(f"{name} judges by epoch, but {self.search} has none; use fifo")
        if name in ("asha", "pbt") and self.objectives != (BY_EPOCH,):
            raise ValueError(
                f"{name} judges by {BY_EPOCH}, the one metric that is known each epoch, but the "
                f"objectives are {', '.join(self.objectives)}; use scheduler: fifo"
            )
        return self

    @model_validator(mode="after")
    def _a_population_can_train(self) -> Self:
        if not self.uses_pbt:
            if self.pbt != Pbt():
                raise ValueError("pbt: needs scheduler: pbt; set that, or take the section out")
            return self
        paths = [f"train.{name}" for name in SCHEDULED]
        for path, distribution in self.space.items():
            if path not in paths:
                raise ValueError(
                    f"{path} cannot change while a model trains; pbt searches {', '.join(paths)}: "
                    "set it in overrides, or use another scheduler"
                )
            if distribution.where:
                raise ValueError(f"{path}: pbt knows no conditions; take where out")
        if self.warm_start is not None:
            raise ValueError("pbt learns from no earlier run; take warm_start out")
        fewest = 1 + self.pbt.population
        if self.budget.trials is not None and self.budget.trials < fewest:
            raise ValueError(
                f"budget.trials is {self.budget.trials}, but the configuration as it stands and "
                f"one generation of {self.pbt.population} are {fewest} trials; raise it, or lower "
                "pbt.population"
            )
        return self

    @model_validator(mode="after")
    def _only_the_graph_is_asked(self) -> Self:
        served = [name for name in self.objectives if name in SERVED]
        if self.search == "serving":
            if self.held_out > 1:
                raise ValueError(
                    f"held_out: {self.held_out}, but the running graph serves models that have "
                    "seen all but the validation items; take it out"
                )
            return self
        if served or self.load != LoadConfig():
            raise ValueError(
                f"{'objective ' + served[0] if served else 'load'} needs the running graph; use "
                "search: serving, or take it out"
            )
        return self

    @model_validator(mode="after")
    def _goals_are_objectives(self) -> Self:
        odd = [name for name in self.goal if name not in self.objectives]
        if odd:
            raise ValueError(
                f"goal names {odd[0]}, which is no objective here; add it to the objectives: "
                f"{', '.join(self.objectives)}"
            )
        return self

    @property
    def at_once(self) -> int | None:
        """How many trials run at once; None: as many as there is room for.

        Trials of the graph would measure each other.
        """
        return 1 if self.search == "serving" else self.budget.concurrency

    @property
    def uses_asha(self) -> bool:
        """Whether bad trials are stopped early."""
        return self.scheduler == "asha" or (self.scheduler is None and self.search == "item_lm")

    @property
    def uses_pbt(self) -> bool:
        """Whether a population trains."""
        return self.scheduler == "pbt"


@dataclass(frozen=True)
class Search:
    """A search file that has been checked against the configuration it searches."""

    settings: SearchConfig
    config: HeliographConfig
    space: Space


def load_search(path: Path) -> Search:
    """Read a search file; relative paths in it are relative to its folder.

    Raises:
        ConfigError: The file, the configuration it names or the space is wrong; the message says
            what is, and what would be right.
    """
    raw = read_mapping(path, "search file")
    folder = path.resolve().parent
    for name in ("config", "warm_start"):
        if isinstance(raw.get(name), str):
            raw[name] = str(folder / raw[name])
    return parse_search(raw, str(path))


def parse_search(raw: dict[str, Any], origin: str) -> Search:
    """Check a search against its schema and the configuration; `origin` is named in the errors."""
    try:
        settings = SearchConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain_errors(error, SearchConfig, origin)) from error
    config = load_config(settings.config, settings.overrides)
    space = check_space(settings.space, READS[settings.search], config)
    for path, why in NOT_SEARCHED.items():
        if path in space.parameters:
            raise ConfigError(f"{path} cannot be searched: {why}; take it out of the space")
    if settings.uses_pbt:
        _check_course(settings, config.train)
    for path, kind in OF_INDEX.items():
        if path in space.parameters and config.index.type != kind:
            raise ConfigError(
                f"{path} makes no difference to an index of type {config.index.type}; take it out, "
                f"or search with overrides: [index.type={kind}]"
            )
    return Search(settings, config, space)


def is_minimised(objective: str) -> bool:
    """Tell whether less is better."""
    return objective.partition("@")[0] in MINIMISED


def cutoffs(objectives: Sequence[str]) -> tuple[int, ...]:
    """Return the cut-offs of objectives, that of `BY_EPOCH` among them."""
    found = {int(name.partition("@")[2]) for name in (*objectives, BY_EPOCH) if "@" in name}
    return tuple(sorted(found))


def _check_course(settings: SearchConfig, train: TrainConfig) -> None:
    if train.epochs <= settings.pbt.interval:
        raise ConfigError(
            f"train.epochs is {train.epochs}, so a population that is compared every "
            f"{settings.pbt.interval} epochs never would be; lower pbt.interval or raise "
            "train.epochs"
        )
    if train.schedule:
        raise ConfigError(
            f"{settings.config} has a train.schedule, but pbt finds one of its own from the first "
            "epoch on; take it out, or search with overrides: ['train.schedule=[]']"
        )


def _check_objective(objective: str) -> None:
    name, _, k = objective.partition("@")
    if objective == SECONDS or objective in SERVED:
        return
    names = (*METRICS, *LISTS)
    if name not in names or not re.fullmatch(r"[1-9]\d*", k) or int(k) > DEEPEST:
        raise ValueError(
            f"{objective!r} is no objective; take {SECONDS}, of the graph {', '.join(SERVED)}, or "
            f"one of {', '.join(names)} with a cut-off up to {DEEPEST}, such as {BY_EPOCH}"
        )
