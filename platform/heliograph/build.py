"""From raw files to a bundle: the stages, in order, each one method.

A stage runs only if its inputs or settings have changed. This file wires stages together and
knows no algorithm; the command line and the examples call it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel

from heliograph.blend import Blend
from heliograph.bundle import (
    DATA_FILE,
    EPOCHS_FILE,
    METRICS_FILE,
    RANKING_FILE,
    read_sources,
    write_bundle,
)
from heliograph.catalog import (
    ITEMS_FILE,
    Catalogue,
    ingest_items,
    read_items,
    require_choice,
)
from heliograph.cleaning import account
from heliograph.cluster import ray_cluster
from heliograph.comparison import compare, evaluation_settings, judge_refit
from heliograph.config import HeliographConfig, SplitName, TableConfig
from heliograph.config_file import ConfigError
from heliograph.embedding import embed, encoder_fingerprint
from heliograph.event_store.changed_items import fetch_changed, read_changed
from heliograph.event_store.exporting import fetch_feedback
from heliograph.events import ingest_events, read_disliked, read_events, read_values
from heliograph.feedback_files import fingerprint
from heliograph.history import HISTORIES_FILE, HISTORIES_LAYOUT, write_histories
from heliograph.interactions import Interactions
from heliograph.model_stages import Part, build_indexes, fit_models, model_names, read_epochs
from heliograph.models.item_lm import ItemLM
from heliograph.models.item_lm_run import best_epoch
from heliograph.pseudonyms import read_key
from heliograph.rating_errors import compare_ratings
from heliograph.split_evaluation import evaluate_on_split
from heliograph.splits import LeaveOneOut, leave_one_out
from heliograph.stages import Report, Stages
from heliograph.workspace import (
    StageResult,
    digest_of,
    hash_file,
    make_folder,
    source_files,
    write_json,
)

REFIT = "refit/"
"""Where stages are whose models are fitted on train and validation."""


class Build:
    """One run over the stages of a configuration; use it in a `with` block.

    A cluster that a stage needs is joined, or started and kept until the block ends.
    """

    def __init__(self, config: HeliographConfig, report: Report) -> None:
        """Take the configuration and who is told of the stages.

        Raises:
            InputError: The workspace cannot be written to.
        """
        make_folder(config.workspace, "workspace")
        self.config = config
        self.stages = Stages(config.workspace, report)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()

    def ingest(self) -> None:
        """Read and clean items and events.

        Raises:
            InputError: A file cannot be read, or there are not two items to choose from.
        """
        items, events = self.config.items, self.config.events
        self.stages.run(
            "items",
            {"items": _placeless(items)},
            _digest_sources(items.path) | self._changed_digest(),
            self._ingest_items,
        )
        require_choice(self.catalogue, self.stages.folder("items"))
        self.stages.run(
            "events",
            {"events": _placeless(events)},
            _digest_sources(events.path) | self.stages.digests("items") | self._heard(),
            self._ingest_events,
        )

    def embed(self) -> None:
        """Turn item texts into vectors."""
        settings = self.config.embedding
        inputs = self.stages.digests("items") | {"encoder": encoder_fingerprint(settings)}
        total = len(self.catalogue)
        self.stages.run("embeddings", {"embedding": settings}, inputs, self._embed, total)

    def train(self) -> None:
        """Fit every model on the training part of the events."""
        validation = self.split.validation_items()
        self._fit(Part("", "events", self.split.train, validation, self.config.train))

    def index(self) -> None:
        """Build the FAISS indexes of the models whose score is an inner product."""
        build_indexes(self.stages, self.config.index, "", len(self.catalogue))

    def evaluate(self) -> None:
        """Fit the blend on validation and compare everything on the test items."""
        inputs = self.stages.digests("events", "index", *model_names(""))
        total = 3 * len(self.split.users)
        settings = evaluation_settings(self.config)
        self.stages.run("evaluation", settings, inputs, self._evaluate, total)

    def refit(self) -> None:
        """Fit every model once more, on train and validation, with everything frozen.

        Settings, weights of the blend and the number of epochs stay as validation chose them.
        """
        if not self.config.refit:
            return
        epochs = read_epochs(self.stages.folder("models/item_lm"))
        frozen = self.config.train.model_copy(update={"epochs": best_epoch(epochs).number})
        self._fit(Part(REFIT, "events", self.split.train_and_validation(), None, frozen))
        build_indexes(self.stages, self.config.index, REFIT, len(self.catalogue))
        inputs = self.stages.digests("events", "evaluation", f"{REFIT}index", *model_names(REFIT))
        settings: Mapping[str, BaseModel | int] = {
            "index": self.config.index.searched,
            "candidates": self.config.candidates,
            "evaluation": self.config.evaluation,
            "seed": self.config.seed,
        }
        users = len(self.split.users)
        self.stages.run(f"{REFIT}evaluation", settings, inputs, self._evaluate_refit, users)

    def evaluate_split(self, name: SplitName) -> StageResult:
        """Fit every model on the training part of another split, and compare them on its test.

        Raises:
            ConfigError: The split needs a setting that is not there.
        """
        given = self._given_events() if name == "given" else None
        interactions = read_events(self.stages.folder("events"), self.catalogue)
        return evaluate_on_split(
            self.stages, self.config, name, self.catalogue, interactions, given
        )

    def bundle(self) -> Path:
        """Put together what serving needs; returns the bundle's folder."""
        self.stages.report.start("bundle", None)
        events, rows = self.stages.digests("events"), self.stages.digests("items", "events")
        histories = self.stages.run(
            "histories", {"layout": HISTORIES_LAYOUT}, events, self._write_histories
        ).folder
        data = self.stages.run("data", {}, rows, self._write_data).folder
        served = REFIT if self.config.refit else ""
        parts = {
            ITEMS_FILE: self.stages.folder("items") / ITEMS_FILE,
            HISTORIES_FILE: histories / HISTORIES_FILE,
            "index": self.stages.folder(f"{served}index"),
            RANKING_FILE: self.stages.folder("evaluation") / RANKING_FILE,
            METRICS_FILE: self.stages.folder(f"{served}evaluation") / METRICS_FILE,
            DATA_FILE: data / DATA_FILE,
            EPOCHS_FILE: self.stages.folder("models/item_lm") / EPOCHS_FILE,
        }
        for name in model_names(served):
            parts[name.removeprefix(REFIT)] = self.stages.folder(name)
        return write_bundle(parts, self.config, self.config.workspace / "bundles")

    @cached_property
    def catalogue(self) -> Catalogue:
        """The clean items."""
        return read_items(self.stages.folder("items"))

    @cached_property
    def split(self) -> LeaveOneOut:
        """The clean events, with each user's last two items held out."""
        return leave_one_out(read_events(self.stages.folder("events"), self.catalogue))

    def _need_ray(self) -> None:
        self._resources.enter_context(ray_cluster())

    def _ingest_items(self, folder: Path) -> Mapping[str, float]:
        self._need_ray()
        path, config = self._changed_items, self.config.items
        changed = None if path is None else partial(read_changed, path, config)
        return ingest_items(config, folder, changed)

    @cached_property
    def _changed_items(self) -> Path | None:
        """What has been changed online since the file of items."""
        return fetch_changed(self.config)

    def _changed_digest(self) -> dict[str, str]:
        return {} if self._changed_items is None else {"changed": hash_file(self._changed_items)}

    @cached_property
    def _feedback(self) -> Path | None:
        """What has been heard online since the last build."""
        return fetch_feedback(self.config)

    def _heard(self) -> dict[str, str]:
        """Return what clean events depend on besides their files; the key itself is not kept."""
        key = read_key(self.config.events)
        depends = {} if key is None else {"pseudonyms": digest_of(key.hex())}
        return depends | ({} if self._feedback is None else {"heard": fingerprint(self._feedback)})

    def _ingest_events(self, folder: Path) -> Mapping[str, float]:
        self._need_ray()
        return ingest_events(self.config.events, self.catalogue, folder, self._feedback)

    def _embed(self, folder: Path) -> Mapping[str, float]:
        self._need_ray()
        advance = self.stages.report.advance
        return embed(self.catalogue.texts, self.config.embedding, folder, advance)

    def _fit(self, part: Part) -> None:
        fit_models(self.stages, self.config, part, len(self.catalogue))

    def _given_events(self) -> Interactions:
        path = self.config.splits.given
        if path is None:
            raise ConfigError(
                "this split needs splits.given: the path of events to be found, "
                "in the format and columns of `events`"
            )
        events = self.config.events.model_copy(update={"path": path})

        def work(folder: Path) -> Mapping[str, float]:
            self._need_ray()
            return ingest_events(events, self.catalogue, folder)

        inputs = _digest_sources(path) | self.stages.digests("items")
        self.stages.run("splits/given/events", {"events": _placeless(events)}, inputs, work)
        return read_events(self.stages.folder("splits/given/events"), self.catalogue)

    def _evaluate(self, folder: Path) -> Mapping[str, float]:
        config = self.config
        sources = read_sources(config.workspace, config.index)
        blend, comparison = compare(
            sources=sources,
            item_lm=ItemLM.load(self.stages.folder("models/item_lm")),
            split=self.split,
            catalogue=self.catalogue,
            config=config,
            progress=self.stages.report.advance,
        )
        ratings = compare_ratings(
            config.models.ratings,
            self.split,
            read_values(self.stages.folder("events")),
            len(self.catalogue),
            config.seed,
        )
        write_json(folder / METRICS_FILE, asdict(comparison) | {"ratings": ratings})
        write_json(folder / RANKING_FILE, blend.dump())
        return {"users": comparison.users} | comparison.test.headline()

    def _evaluate_refit(self, folder: Path) -> Mapping[str, float]:
        evaluation = self.stages.folder("evaluation")
        verdict = judge_refit(
            sources=read_sources(self.config.workspace / REFIT, self.config.index),
            item_lm=ItemLM.load(self.stages.folder(f"{REFIT}models/item_lm")),
            blend=Blend.parse(json.loads((evaluation / RANKING_FILE).read_text())),
            split=self.split,
            catalogue=self.catalogue,
            config=self.config,
            progress=self.stages.report.advance,
        )
        metrics = json.loads((evaluation / METRICS_FILE).read_text())
        write_json(folder / METRICS_FILE, metrics | {"refit": asdict(verdict)})
        return {"users": len(self.split.users)} | verdict.headline()

    def _write_histories(self, folder: Path) -> Mapping[str, float]:
        interactions = read_events(self.stages.folder("events"), self.catalogue)
        disliked = read_disliked(self.stages.folder("events"), self.catalogue)
        write_histories(interactions, folder / HISTORIES_FILE, disliked)
        return {"users": len(interactions.user_ids)}

    def _write_data(self, folder: Path) -> Mapping[str, float]:
        cleaning = account(
            self.stages.folder("items"), self.stages.folder("events"), self.split.counts
        )
        write_json(folder / DATA_FILE, asdict(cleaning))
        return {"items": cleaning.items.kept, "events": cleaning.events.kept}


STAGES: dict[str, Callable[[Build], object]] = {
    "ingest": Build.ingest,
    "embed": Build.embed,
    "train": Build.train,
    "index": Build.index,
    "evaluate": Build.evaluate,
    "refit": Build.refit,
    "bundle": Build.bundle,
}
"""Every stage, in the order in which they run."""


def _placeless(table: TableConfig) -> TableConfig:
    """Leave the path out of a stage's settings: what counts is the content that is found there."""
    return table.model_copy(update={"path": ""})


def _digest_sources(location: str) -> dict[str, str]:
    files = source_files(location)
    return {"files": digest_of(*(f"{file.name} {hash_file(file)}" for file in files))}
