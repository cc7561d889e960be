"""The stages that fit models and build their indexes, each on a part of the events."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel

from heliograph.bundle import EPOCHS_FILE
from heliograph.config import SOURCE_NAMES, HeliographConfig, IndexConfig, TrainConfig
from heliograph.embedding import read_vectors
from heliograph.index import VectorIndex, why_flat
from heliograph.interactions import Interactions
from heliograph.models.als import Als
from heliograph.models.item_lm_run import Epoch, best_epoch
from heliograph.models.item_lm_training import fit_item_lm
from heliograph.models.popularity import Popularity
from heliograph.models.text import TEXT_LAYOUT, Text
from heliograph.models.transitions import Transitions
from heliograph.splits import NextItems
from heliograph.stages import Stages
from heliograph.verdict import DECISIVE
from heliograph.workspace import write_json


@dataclass(frozen=True)
class Part:
    """What models are fitted on, and where their stages are."""

    prefix: str
    """Of the stages' names: empty, or a folder with its slash."""

    source: str
    """The stage whose digest stands for the events."""

    interactions: Interactions
    held_out: NextItems | None
    """What early stopping looks for; None: training goes on for all of its epochs."""

    train: TrainConfig


def model_names(prefix: str) -> list[str]:
    """Return the names of the stages that fit models."""
    return [f"{prefix}models/{name}" for name in (*SOURCE_NAMES, "item_lm")]


def fit_models(stages: Stages, config: HeliographConfig, part: Part, n_items: int) -> None:
    """Fit every model on a part of the events, after the stages `part.source` and `embeddings`."""
    models, seed, prefix = config.models, config.seed, part.prefix

    def popularity(folder: Path) -> Mapping[str, float]:
        Popularity.fit(models.popularity, part.interactions, n_items).save(folder)
        return {"events": len(part.interactions)}

    def transitions(folder: Path) -> Mapping[str, float]:
        model = Transitions.fit(models.transitions, part.interactions, n_items)
        model.save(folder)
        return {"transitions": model.evidence.nnz}

    def als(folder: Path) -> Mapping[str, float]:
        Als.fit(models.als, part.interactions, n_items, seed).save(folder)
        return {"factors": models.als.factors}

    def text(folder: Path) -> Mapping[str, float]:
        model = Text.fit(models.text, read_vectors(stages.folder("embeddings")))
        model.save(folder)
        return {"dim": model.item_vectors.shape[1]}

    def item_lm(folder: Path) -> Mapping[str, float]:
        return _fit_item_lm(stages, config, part, folder)

    events, embeddings = stages.digests(part.source), stages.digests("embeddings")
    stages.run(f"{prefix}models/popularity", {"": models.popularity}, events, popularity)
    stages.run(f"{prefix}models/transitions", {"": models.transitions}, events, transitions)
    stages.run(f"{prefix}models/als", {"": models.als, "seed": seed}, events, als)
    text_settings: Mapping[str, BaseModel | int] = {"": models.text, "layout": TEXT_LAYOUT}
    stages.run(f"{prefix}models/text", text_settings, embeddings, text)
    stages.run(
        f"{prefix}models/item_lm",
        {"": models.item_lm, "train": part.train, "seed": seed},
        stages.digests(part.source, f"{prefix}models/text"),
        item_lm,
        part.train.epochs,
    )


def build_indexes(stages: Stages, config: IndexConfig, prefix: str, n_items: int) -> None:
    """Build the FAISS indexes of the fitted models whose score is an inner product.

    The counts name those that are flat though another type is asked for, and why.
    """

    def build(folder: Path) -> Mapping[str, float]:
        counts = {"items": n_items}
        for name, model in (
            ("als", Als.load(stages.folder(f"{prefix}models/als"))),
            ("text", Text.load(stages.folder(f"{prefix}models/text"))),
        ):
            VectorIndex.build(model.item_vectors, config).save(folder / f"{name}.faiss")
            if reason := why_flat(model.item_vectors, config):
                counts[f"flat index of {name} ({reason})"] = 1
        return counts

    inputs = stages.digests(f"{prefix}models/als", f"{prefix}models/text")
    stages.run(f"{prefix}index", {"index": config.built}, inputs, build)


def read_epochs(folder: Path) -> list[Epoch]:
    """Read the learning curve of an item LM from its stage or bundle folder."""
    return [Epoch(**entry) for entry in json.loads((folder / EPOCHS_FILE).read_text())]


def _fit_item_lm(
    stages: Stages, config: HeliographConfig, part: Part, folder: Path
) -> Mapping[str, float]:
    def epoch_done(epoch: Epoch) -> None:
        note = f"loss {epoch.loss:.3f}"
        if epoch.validation_ndcg is not None:
            note += f", validation NDCG@10 {epoch.validation_ndcg:.4f}"
        stages.report.advance(1, note)

    checkpoint = stages.workspace / "checkpoints" / f"{part.prefix}item_lm"
    model, epochs = fit_item_lm(
        config.models.item_lm,
        part.train,
        part.interactions,
        part.held_out,
        Text.load(stages.folder(f"{part.prefix}models/text")).item_vectors,
        config.seed,
        checkpoint,
        epoch_done,
    )
    model.save(folder)
    write_json(folder / EPOCHS_FILE, [asdict(epoch) for epoch in epochs])
    shutil.rmtree(checkpoint)
    score = best_epoch(epochs).validation_ndcg
    known = {} if score is None else {f"validation_{DECISIVE}": round(score, 4)}
    return {"epochs": len(epochs)} | known
