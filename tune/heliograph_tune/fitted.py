"""Models that a search has fitted before its trials, kept by what they were fitted with.

The models of the workspace are those of whoever builds there: a search on another configuration,
such as the `best.yaml` of an earlier run, leaves them as they are. And a run that goes on finds the
models that its trials have seen, whatever has been built since.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from heliograph.build import Build
from heliograph.config import HeliographConfig
from heliograph.model_stages import Part, build_indexes, fit_models
from heliograph.stages import Stages
from heliograph.workspace import digest_of
from heliograph_tune.knowledge import Knowledge
from heliograph_tune.run_folder import SEARCHES

FITTED = "fitted"
STAGES_KEPT = ("models", "index")
DECIDES = {"items", "events", "embedding", "models", "train", "seed"}
"""Sections of the configuration that decide what is fitted."""


def fitted_folder(config: HeliographConfig, held_out: int = 1) -> Path:
    """Return where the models of a configuration are kept.

    Args:
        config: What they are fitted with.
        held_out: Items of each user that they have not seen, before the test item; with one they
            are the models that a build fits.
    """
    key = digest_of(config.model_dump_json(include=DECIDES))[:12]
    name = key if held_out == 1 else f"{key}-without-{held_out}"
    return config.workspace / SEARCHES / FITTED / name


def fit_for_trials(build: Build, known: Knowledge, held_out: int = 1) -> Path:
    """Fit and index every model, as far as it has not been done; returns the folder.

    A workspace without any models has none to be kept, so they are fitted there, for everybody.

    Args:
        build: Its items, events and embeddings are there; from now on its models are those here.
        known: What models may be fitted on.
        held_out: Items of each user that this leaves out, the test item not counted.
    """
    config, size = build.config, len(build.catalogue)
    folder = fitted_folder(config, held_out)
    if held_out == 1:
        _take_over(build, folder)
    stages = Stages(folder, build.stages.report)
    stages.results |= build.stages.results
    fit_models(stages, config, Part("", "events", known.train, known.held_out, config.train), size)
    build_indexes(stages, config.index, "", size)
    build.stages.results |= stages.results
    return folder


def _take_over(build: Build, folder: Path) -> None:
    workspace = build.config.workspace
    if not (workspace / "models").exists():
        build.train()
        build.index()
    for name in STAGES_KEPT:
        if (workspace / name).is_dir() and not (folder / name).exists():
            shutil.copytree(workspace / name, folder / name)


def copy_fitted(config: HeliographConfig, workspace: Path) -> None:
    """Put the models of a configuration into a workspace, if a search has fitted them."""
    for name in STAGES_KEPT:
        if (kept := fitted_folder(config) / name).is_dir():
            shutil.rmtree(workspace / name, ignore_errors=True)
            shutil.copytree(kept, workspace / name)
