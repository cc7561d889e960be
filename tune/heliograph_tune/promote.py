"""The winner of a search -> a bundle ready to serve, and whether it is better on the test items.

The one place of a search that reads test items, and it does so once: what it found is written down,
and a second call returns that. That it begins to read them is written down before, so that a
promotion that was killed is told from none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heliograph.blend import Blend
from heliograph.build import REFIT, STAGES, Build
from heliograph.bundle import RANKING_FILE, read_sources
from heliograph.candidates import Retriever
from heliograph.cluster import ray_cluster
from heliograph.comparison import rankings
from heliograph.config import HeliographConfig
from heliograph.config_file import load_config
from heliograph.evaluation import per_user
from heliograph.event_store.exporting import FEEDBACK_FOLDER
from heliograph.models.item_lm import ItemLM
from heliograph.significance import PairedDifference, paired_difference
from heliograph.splits import NextItems
from heliograph.stages import Report
from heliograph.verdict import DECISIVE, DECISIVE_K, PIPELINE
from heliograph.workspace import InputError, write_json
from heliograph_tune.fitted import copy_fitted
from heliograph_tune.goal import keeps, said
from heliograph_tune.run_folder import BUILDING, CONFIG_FILE, DATA, SEARCHES, RunFolder, locked
from heliograph_tune.search_file import Search
from heliograph_tune.setting import with_settings
from heliograph_tune.standings import Standing, standing_of, standings
from heliograph_tune.trials_to_run import BASELINE

PROMOTION_FILE = "promotion.json"
BEGUN_FILE = "promotion-begun.json"
"""There from the moment before test items are read until the promotion has been written down."""

FITTED_STAGES = ("embeddings", "models", "index", "refit")
"""Of a workspace: they are copied, and what the winner does not change is found unchanged."""

USERS_A_CHUNK = 512


@dataclass(frozen=True)
class Promotion:
    """What a promotion came to."""

    trial: int
    settings: dict[str, Any]
    """In which the winner differs from the configuration as it stood."""

    validation: float
    """What the winner was chosen by: its mean over repetitions, or its score."""

    ndcg: float
    """Test NDCG@10 of the promoted pipeline, as it is served."""

    ndcg_before: float
    """The same of the configuration that it is compared with."""

    against: str
    """Path of that configuration."""

    difference: PairedDifference
    config: str
    """Path of the configuration."""

    bundle: str
    """Path of the bundle."""

    reached: dict[str, float] = field(default_factory=dict)
    """Of a search with several objectives, what the winner came to in each, on validation."""

    reached_before: dict[str, float] = field(default_factory=dict)
    """The same of the configuration as it stood, if that could be judged."""

    read_before: str | None = None
    """When an earlier promotion of the run, which did not come to its end, began to read the test
    items; None: these were read once."""

    @property
    def is_against_own(self) -> bool:
        """Whether it is compared with the configuration that was searched."""
        return Path(self.against) == Path(self.config).with_name(CONFIG_FILE)


def promote(folder: RunFolder, report: Report, against: Path | None = None) -> Promotion:
    """Build the winner and the configuration as it stood, and compare them on the test items.

    Args:
        folder: Of a run.
        against: Another configuration to compare with, of the same data; after a chain of searches
            that is the one that the first of them began with.
        report: Is told of the stages of both builds.

    Raises:
        InputError: The search has not ended, nothing is better than the configuration as it stood
            and there is no other one to compare it with, that one is of other data, or the run has
            been compared with another one before.
    """
    file = folder.path / PROMOTION_FILE
    if file.is_file():
        found = _read(file)
        if against is not None:
            _check_against(folder, found.against, against)
        return found
    search, record = folder.search(), folder.record()
    if not record.is_complete:
        raise InputError(f"{folder.path} has not ended; go on with its search and --resume first")
    winner = standings(search, record)[0]
    if winner.is_baseline and against is None:
        raise InputError(
            f"no trial of {folder.path} is better than the configuration as it stands "
            f"({winner.mean:.4f} on validation); there is nothing to promote: widen the space, or "
            "give the search more trials"
        )
    goal = search.settings.goal
    if not keeps(goal, winner.metrics):
        told = ", ".join(f"{name} {winner.metrics[name]:.4g}" for name in goal)
        raise InputError(
            f"no trial of {folder.path} keeps the goal, {said(goal)}; trial {winner.number} comes "
            f"nearest ({told}): widen the space, or ask for less"
        )
    settings = record.asked[winner.number].settings
    before = (against or folder.config).resolve()
    building = search.config.workspace / SEARCHES / BUILDING
    with (
        locked(folder.path / "lock", "promoting"),
        locked(building, "building", wait=True),
        ray_cluster(),
    ):
        promotion = _promote(folder, search, winner, settings, before, report)
    if len(search.settings.objectives) > 1:
        as_it_stood = record.finished.get(BASELINE) and standing_of(search, record, BASELINE)
        promotion = replace(
            promotion,
            reached=_in_objectives(search, winner.metrics),
            reached_before=_in_objectives(search, as_it_stood.metrics if as_it_stood else {}),
        )
    write_json(file, asdict(promotion))
    (folder.path / BEGUN_FILE).unlink(missing_ok=True)
    return promotion


def begin_reading(folder: RunFolder, against: Path) -> str | None:
    """Write down that test items are about to be read.

    Returns:
        When that was written down before, by a promotion that did not come to its end.

    Raises:
        InputError: That one compared with another configuration: the test items would be read for
            two comparisons.
    """
    file = folder.path / BEGUN_FILE
    if file.is_file():
        begun = json.loads(file.read_text())
        _check_against(folder, begun["against"], against)
        return str(begun["began"])
    began = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(file, {"against": str(against), "began": began})
    return None


def _check_against(folder: RunFolder, before: str, against: Path) -> None:
    if Path(before).resolve() != against.resolve():
        raise InputError(
            f"the test items of a run are read for one comparison, and those of {folder.path} "
            f"for one with {before}, not with {against}; see it with --against {before}"
        )


def _promote(
    folder: RunFolder,
    search: Search,
    winner: Standing,
    settings: dict[str, Any],
    against: Path,
    report: Report,
) -> Promotion:
    winning = with_settings(search.config, settings)
    best = winning.model_copy(update={"workspace": folder.promoted})
    config = load_config(against)
    with Build(config, report) as before, Build(best, report) as after:
        before.ingest()
        _copy_stages(config.workspace, folder.promoted, DATA)
        after.ingest()
        _check_data(before, after, against)
        _build(before)
        _copy_stages(config.workspace, folder.promoted, FITTED_STAGES)
        copy_fitted(winning, folder.promoted)
        read_before = begin_reading(folder, against)
        bundle = _build(after)
    asked = after.split.test_items().sample(best.evaluation.max_users, best.seed)
    values, values_before = _test_values(best, asked), _test_values(config, asked)
    return Promotion(
        trial=winner.number,
        settings=settings,
        validation=winner.mean,
        ndcg=float(values.mean()),
        ndcg_before=float(values_before.mean()),
        against=str(against),
        difference=paired_difference(values, values_before, search.config.seed),
        config=str(folder.best.resolve()),
        bundle=str(bundle),
        read_before=read_before,
    )


def _in_objectives(search: Search, metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in search.settings.objectives if name in metrics}


def _build(build: Build) -> Path:
    """Run every stage after the first one, which has been run; returns the bundle."""
    for name, stage in STAGES.items():
        if name != "ingest":
            found = stage(build)
    assert isinstance(found, Path)  # the last stage is the bundle
    return found


def _check_data(before: Build, after: Build, against: Path) -> None:
    """Compare pipelines by the same items of the same users, or not at all."""
    theirs, ours = before.stages.digests(*DATA), after.stages.digests(*DATA)
    other = [name for name in DATA if theirs[name] != ours[name]]
    if other:
        raise InputError(
            f"{against} has other {' and '.join(other)} than the search, so they cannot be "
            "compared; name a configuration of the same data, and if events have come in just "
            "now, try again"
        )


def _test_values(config: HeliographConfig, asked: NextItems) -> NDArray[np.float64]:
    """Return (users,) test NDCG@10 of the pipeline that was built."""
    served = config.workspace / REFIT if config.refit else config.workspace
    blend = json.loads((config.workspace / "evaluation" / RANKING_FILE).read_text())
    retriever = Retriever(read_sources(served, config.index), config.candidates, Blend.parse(blend))
    item_lm = ItemLM.load(served / "models" / "item_lm")
    parts = [
        per_user(
            rankings(retriever, item_lm, chunk.histories, config)[PIPELINE],
            chunk.targets,
            [DECISIVE_K],
        )[DECISIVE]
        for chunk in _chunks(asked)
    ]
    return np.concatenate(parts)


def _chunks(asked: NextItems) -> Iterator[NextItems]:
    for start in range(0, len(asked.targets), USERS_A_CHUNK):
        yield asked.pick(np.arange(start, min(start + USERS_A_CHUNK, len(asked.targets))))


def _copy_stages(workspace: Path, promoted: Path, names: Sequence[str]) -> None:
    for name in names:
        if (workspace / name).is_dir():
            shutil.copytree(workspace / name, promoted / name, dirs_exist_ok=True)
    feedback = promoted / FEEDBACK_FOLDER
    if (workspace / FEEDBACK_FOLDER).is_dir() and not feedback.exists():
        feedback.symlink_to(workspace / FEEDBACK_FOLDER)  # no copy: erasures must reach it


def _read(file: Path) -> Promotion:
    content = json.loads(file.read_text())
    return Promotion(**content | {"difference": PairedDifference(**content["difference"])})
