"""From raw files to a bundle: the stages, in order, each one method.

A stage runs only if its inputs or settings have changed. This file wires stages together and
knows no algorithm; the command line and the examples call it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

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
from heliograph.catalog import ITEMS_FILE, Catalogue, ingest_items, read_items
from heliograph.cleaning import account
from heliograph.cluster import ray_cluster
from heliograph.comparison import compare, judge_refit
from heliograph.config import SOURCE_NAMES, HeliographConfig, TableConfig, TrainConfig
from heliograph.embedding import embed, encoder_fingerprint, read_vectors
from heliograph.events import Interactions, ingest_events, read_events
from heliograph.history import HISTORIES_FILE, write_histories
from heliograph.index import VectorIndex
from heliograph.models.als import Als
from heliograph.models.item_lm import ItemLM
from heliograph.models.item_lm_run import Epoch, best_epoch
from heliograph.models.item_lm_training import fit_item_lm
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from heliograph.splits import LeaveOneOut, NextItems, leave_one_out
from heliograph.verdict import PIPELINE
from heliograph.workspace import (
    StageResult,
    digest_of,
    hash_file,
    run_stage,
    source_files,
    write_json,
)

REFIT = "refit/"
"""Where stages are whose models are fitted on train and validation."""


class Report(Protocol):
    """Is told what happens while stages run."""

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage of `total` steps; None if that is not known."""
        ...

    def advance(self, steps: int, note: str = "") -> None:
        """Note steps of the current stage as done."""
        ...

    def finish(self, result: StageResult) -> None:
        """End the current stage."""
        ...


class Build:
    """One run over the stages of a configuration; use it in a `with` block.

    A cluster that a stage needs is joined, or started and kept until the block ends.
    """

    def __init__(self, config: HeliographConfig, report: Report) -> None:
        self.config = config
        self.report = report
        self.results: dict[str, StageResult] = {}
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
        """Read and clean items and events."""
        items, events = self.config.items, self.config.events
        self._run(
            "items", {"items": _placeless(items)}, _digest_sources(items.path), self._ingest_items
        )
        self._run(
            "events",
            {"events": _placeless(events)},
            _digest_sources(events.path) | self._digests("items"),
            self._ingest_events,
        )

    def embed(self) -> None:
        """Turn item texts into vectors."""
        settings = self.config.embedding
        inputs = self._digests("items") | {"encoder": encoder_fingerprint(settings)}
        total = len(self.catalogue)
        self._run("embeddings", {"embedding": settings}, inputs, self._embed, total)

    def train(self) -> None:
        """Fit every model on the training part of the events."""
        self._fit_models("", self.split.train, self.split.validation_items(), self.config.train)

    def index(self) -> None:
        """Build the FAISS indexes of the models whose score is an inner product."""
        self._index("")

    def evaluate(self) -> None:
        """Fit the blend on validation and compare everything on the test items."""
        config = self.config
        settings: Mapping[str, BaseModel | int] = {
            "candidates": config.candidates,
            "ranking": config.ranking,
            "evaluation": config.evaluation,
            "seed": config.seed,
        }
        inputs = self._digests("events", "index", *self._models(""))
        self._run("evaluation", settings, inputs, self._evaluate, 3 * len(self.split.users))

    def refit(self) -> None:
        """Fit every model once more, on train and validation, with everything frozen.

        Settings, weights of the blend and the number of epochs stay as validation chose them.
        """
        if not self.config.refit:
            return
        epochs = read_epochs(self._folder("models/item_lm"))
        frozen = self.config.train.model_copy(update={"epochs": best_epoch(epochs).number})
        self._fit_models(REFIT, self.split.train_and_validation(), None, frozen)
        self._index(REFIT)
        inputs = self._digests("events", "evaluation", f"{REFIT}index", *self._models(REFIT))
        settings: Mapping[str, BaseModel | int] = {
            "candidates": self.config.candidates,
            "evaluation": self.config.evaluation,
            "seed": self.config.seed,
        }
        users = len(self.split.users)
        self._run(f"{REFIT}evaluation", settings, inputs, self._evaluate_refit, users)

    def bundle(self) -> Path:
        """Put together what serving needs; returns the bundle's folder."""
        self.report.start("bundle", None)
        folder = self._run("histories", {}, self._digests("events"), self._write_histories).folder
        data = self._run("data", {}, self._digests("items", "events"), self._write_data).folder
        served = REFIT if self.config.refit else ""
        parts = {
            ITEMS_FILE: self._folder("items") / ITEMS_FILE,
            HISTORIES_FILE: folder / HISTORIES_FILE,
            "index": self._folder(f"{served}index"),
            RANKING_FILE: self._folder("evaluation") / RANKING_FILE,
            METRICS_FILE: self._folder(f"{served}evaluation") / METRICS_FILE,
            DATA_FILE: data / DATA_FILE,
            EPOCHS_FILE: self._folder("models/item_lm") / EPOCHS_FILE,
        }
        for name in self._models(served):
            parts[name.removeprefix(REFIT)] = self._folder(name)
        return write_bundle(parts, self.config, self.config.workspace / "bundles")

    @cached_property
    def catalogue(self) -> Catalogue:
        """The clean items."""
        return read_items(self._folder("items"))

    @cached_property
    def split(self) -> LeaveOneOut:
        """The clean events, with each user's last two items held out."""
        return leave_one_out(read_events(self._folder("events"), self.catalogue))

    def _run(
        self,
        name: str,
        settings: Mapping[str, BaseModel | int | None],
        inputs: Mapping[str, str],
        work: Callable[[Path], Mapping[str, float]],
        total: int | None = None,
    ) -> StageResult:
        self.report.start(name, total)
        result = run_stage(self.config.workspace, name, settings, inputs, work)
        self.results[name] = result
        self.report.finish(result)
        return result

    def _digests(self, *stages: str) -> dict[str, str]:
        return {stage: self.results[stage].digest for stage in stages}

    def _folder(self, stage: str) -> Path:
        return self.results[stage].folder

    def _need_ray(self) -> None:
        self._resources.enter_context(ray_cluster())

    def _ingest_items(self, folder: Path) -> Mapping[str, float]:
        self._need_ray()
        return ingest_items(self.config.items, folder)

    def _ingest_events(self, folder: Path) -> Mapping[str, float]:
        self._need_ray()
        return ingest_events(self.config.events, self.catalogue, folder)

    def _embed(self, folder: Path) -> Mapping[str, float]:
        self._need_ray()
        return embed(self.catalogue.texts, self.config.embedding, folder, self.report.advance)

    def _models(self, prefix: str) -> list[str]:
        return [f"{prefix}models/{name}" for name in (*SOURCE_NAMES, "item_lm")]

    def _fit_models(
        self,
        prefix: str,
        interactions: Interactions,
        held_out: NextItems | None,
        train: TrainConfig,
    ) -> None:
        """Fit all models in stages below `prefix`; without held-out items, for fixed epochs."""
        models, seed, n_items = self.config.models, self.config.seed, len(self.catalogue)

        def popularity(folder: Path) -> Mapping[str, float]:
            Popularity.fit(models.popularity, interactions, n_items).save(folder)
            return {"events": len(interactions)}

        def transitions(folder: Path) -> Mapping[str, float]:
            model = Transitions.fit(models.transitions, interactions, n_items)
            model.save(folder)
            return {"transitions": model.evidence.nnz}

        def als(folder: Path) -> Mapping[str, float]:
            Als.fit(models.als, interactions, n_items, seed).save(folder)
            return {"factors": models.als.factors}

        def text(folder: Path) -> Mapping[str, float]:
            model = Text.fit(models.text, read_vectors(self._folder("embeddings")))
            model.save(folder)
            return {"dim": model.item_vectors.shape[1]}

        def item_lm(folder: Path) -> Mapping[str, float]:
            return self._fit_item_lm(folder, prefix, interactions, held_out, train)

        events, embeddings = self._digests("events"), self._digests("embeddings")
        self._run(f"{prefix}models/popularity", {"": models.popularity}, events, popularity)
        self._run(f"{prefix}models/transitions", {"": models.transitions}, events, transitions)
        self._run(f"{prefix}models/als", {"": models.als, "seed": seed}, events, als)
        self._run(f"{prefix}models/text", {"": models.text}, embeddings, text)
        self._run(
            f"{prefix}models/item_lm",
            {"": models.item_lm, "train": train, "seed": seed},
            self._digests("events", f"{prefix}models/text"),
            item_lm,
            train.epochs,
        )

    def _fit_item_lm(
        self,
        folder: Path,
        prefix: str,
        interactions: Interactions,
        held_out: NextItems | None,
        train: TrainConfig,
    ) -> Mapping[str, float]:
        def epoch_done(epoch: Epoch) -> None:
            note = f"loss {epoch.loss:.3f}"
            if epoch.validation_ndcg is not None:
                note += f", validation NDCG@10 {epoch.validation_ndcg:.4f}"
            self.report.advance(1, note)

        checkpoint = self.config.workspace / "checkpoints" / f"{prefix}item_lm"
        model, epochs = fit_item_lm(
            self.config.models.item_lm,
            train,
            interactions,
            held_out,
            Text.load(self._folder(f"{prefix}models/text")).item_vectors,
            self.config.seed,
            checkpoint,
            epoch_done,
        )
        model.save(folder)
        write_json(folder / EPOCHS_FILE, [asdict(epoch) for epoch in epochs])
        shutil.rmtree(checkpoint)
        score = best_epoch(epochs).validation_ndcg
        known = {} if score is None else {"validation_ndcg@10": round(score, 4)}
        return {"epochs": len(epochs)} | known

    def _index(self, prefix: str) -> None:
        def build(folder: Path) -> Mapping[str, float]:
            for name, model in (
                ("als", Als.load(self._folder(f"{prefix}models/als"))),
                ("text", Text.load(self._folder(f"{prefix}models/text"))),
            ):
                VectorIndex.build(model.item_vectors).save(folder / f"{name}.faiss")
            return {"items": len(self.catalogue)}

        inputs = self._digests(f"{prefix}models/als", f"{prefix}models/text")
        self._run(f"{prefix}index", {}, inputs, build)

    def _evaluate(self, folder: Path) -> Mapping[str, float]:
        config = self.config
        sources = read_sources(config.workspace)
        blend, comparison = compare(
            sources=sources,
            item_lm=ItemLM.load(self._folder("models/item_lm")),
            split=self.split,
            catalogue=self.catalogue,
            config=config,
            progress=self.report.advance,
        )
        write_json(folder / METRICS_FILE, asdict(comparison))
        write_json(folder / RANKING_FILE, blend.dump())
        pipeline = comparison.test.models[PIPELINE]
        return {"users": comparison.users, "pipeline_ndcg@10": round(pipeline["ndcg@10"], 4)}

    def _evaluate_refit(self, folder: Path) -> Mapping[str, float]:
        evaluation = self._folder("evaluation")
        verdict = judge_refit(
            sources=read_sources(self.config.workspace / REFIT),
            item_lm=ItemLM.load(self._folder(f"{REFIT}models/item_lm")),
            blend=Blend.parse(json.loads((evaluation / RANKING_FILE).read_text())),
            split=self.split,
            catalogue=self.catalogue,
            config=self.config,
            progress=self.report.advance,
        )
        metrics = json.loads((evaluation / METRICS_FILE).read_text())
        write_json(folder / METRICS_FILE, metrics | {"refit": asdict(verdict)})
        ndcg = verdict.models[PIPELINE]["ndcg@10"]
        return {"users": len(self.split.users), "pipeline_ndcg@10": round(ndcg, 4)}

    def _write_histories(self, folder: Path) -> Mapping[str, float]:
        interactions = read_events(self._folder("events"), self.catalogue)
        write_histories(interactions, folder / HISTORIES_FILE)
        return {"users": len(interactions.user_ids)}

    def _write_data(self, folder: Path) -> Mapping[str, float]:
        cleaning = account(self._folder("items"), self._folder("events"), self.split.counts)
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


def read_epochs(folder: Path) -> list[Epoch]:
    """Read the learning curve of an item LM from its stage or bundle folder."""
    return [Epoch(**entry) for entry in json.loads((folder / EPOCHS_FILE).read_text())]


def _placeless(table: TableConfig) -> TableConfig:
    """Leave the path out of a stage's settings: what counts is the content that is found there."""
    return table.model_copy(update={"path": ""})


def _digest_sources(location: str) -> dict[str, str]:
    files = source_files(location)
    return {"files": digest_of(*(f"{file.name} {hash_file(file)}" for file in files))}
