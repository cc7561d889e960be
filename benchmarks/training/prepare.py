"""Builds what all systems are given, with heliograph's own stages: the split and text vectors."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from heliograph.build import Build
from heliograph.config_file import load_config
from heliograph.display import StageProgress
from heliograph.embedding import read_vectors
from heliograph.models.text import Text
from item_lm_driver import SETTINGS_FILE, VECTORS_FILE
from task import Task

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class DataSet:
    """Where the settings of a dataset are, and what is raced for."""

    config: Path
    target: float
    recbole_dropout: float
    rectools_dropout: float


DATASETS = {
    "ml-100k": DataSet(ROOT / "examples" / "movielens" / "movielens.yaml", 0.10, 0.2, 0.2),
    # RecBole's default 0.5 is what sparse data needs; RecTools' default is 0.2
    "beauty": DataSet(ROOT / "benchmarks" / "quality" / "beauty.yaml", 0.05, 0.5, 0.2),
}


@dataclass(frozen=True)
class Prepared:
    """What came of the preparation."""

    max_length: int
    limit_s: float
    users: int
    """Validated."""

    items: int
    events: int
    """In training."""


def prepare(dataset: str, data: Path | None, work: Path, seed: int, ids_only: bool) -> Prepared:
    """Write the task, our settings and the text vectors to a folder.

    Args:
        dataset: One of `DATASETS`.
        data: Folder with items.tsv and sequences.txt; None where a package holds the files.
        work: Gets the files, and the workspace of the stages.
        seed: Of our training.
        ids_only: Write vectors of zeros, so that items are nothing but their numbers.
    """
    overrides = [f"workspace={work / 'workspace'}", f"seed={seed}", "train.device=cpu"]
    if data is not None:
        overrides += [f"items.path={data / 'items.tsv'}", f"events.path={data / 'sequences.txt'}"]
    config = load_config(DATASETS[dataset].config, overrides)
    with StageProgress(Console(stderr=True)) as report, Build(config, report) as build:
        build.ingest()
        split, catalogue = build.split, build.catalogue
        vectors = np.zeros((len(catalogue), 1), np.float32)
        if not ids_only:
            build.embed()
            embeddings = read_vectors(build.stages.folder("embeddings"))
            vectors = Text.fit(config.models.text, embeddings).item_vectors
    train = split.train
    Task(train.offsets, train.items, split.users, split.validation, len(catalogue)).save(work)
    np.save(work / VECTORS_FILE, vectors)
    settings = {"item_lm": config.models.item_lm.model_dump(), "train": config.train.model_dump()}
    (work / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n")
    return Prepared(
        max_length=config.models.item_lm.max_history,
        limit_s=60 * (config.train.max_minutes or math.inf),
        users=len(split.users),
        items=len(catalogue),
        events=len(train.items),
    )
