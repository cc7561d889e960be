"""What a search needs before its first trial: the stages of a build, up to what is shared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from heliograph.build import Build
from heliograph.bundle import read_sources
from heliograph.embedding import read_vectors
from heliograph.events import read_events
from heliograph.interactions import Interactions
from heliograph.stages import Report
from heliograph_tune.distributions import Choice
from heliograph_tune.fitted import fit_for_trials
from heliograph_tune.judges import (
    Judge,
    ModelJudge,
    PipelineJudge,
    RetrievalJudge,
    ServingJudge,
)
from heliograph_tune.knowledge import Knowledge, without_test_items
from heliograph_tune.pipeline_evidence import PipelineEvidence, gather
from heliograph_tune.repetition import draws_weights
from heliograph_tune.run_folder import BUILDING, SEARCHES, RunFolder, locked
from heliograph_tune.search_file import Search, cutoffs
from heliograph_tune.visitors import Visitors

READ_TEXTS = ("text", "item_lm")
"""Models that need the vectors of the texts."""


@dataclass(frozen=True)
class Prepared:
    """What trials are given, and what it was made from."""

    judge: Judge
    inputs: dict[str, str]
    """Stage -> hash of what it wrote."""

    surroundings: Callable[[], AbstractContextManager[None]] = nullcontext
    """What has to run while trials do."""


def prepare(search: Search, folder: RunFolder, report: Report) -> Prepared:
    """Run the stages that are shared by all trials, as far as they have not been run before."""
    workspace = search.config.workspace
    with (
        locked(workspace / SEARCHES / BUILDING, "building", wait=True),
        Build(search.config, report) as build,
    ):
        build.ingest()
        match search.settings.search:
            case "pipeline":
                judge: Judge = PipelineJudge(_evidence(search, build), _cut(search))
            case "retrieval":
                judge = _retrieval(search, build)
            case "serving":
                return _serving(search, folder, build)
            case _:
                judge = _model(search, build)
        return Prepared(judge, _inputs(build))


def deepest(search: Search) -> int:
    """Return the length of the longest list of candidates that any trial may ask for."""
    candidates = search.config.candidates
    most = [candidates.depth, candidates.count, *cutoffs(search.settings.objectives)]
    for path in ("candidates.depth", "candidates.count"):
        distribution = search.space.parameters.get(path)
        if isinstance(distribution, Choice):
            most += distribution.values
        elif distribution is not None:
            most.append(int(distribution.high))
    return max(most)


def _model(search: Search, build: Build) -> Judge:
    vectors = None
    if search.settings.search in READ_TEXTS:
        build.embed()
        vectors = read_vectors(build.stages.folder("embeddings"))
    known = _known(search, build, vectors)
    return ModelJudge(search.settings.search, known)


def _evidence(search: Search, build: Build) -> PipelineEvidence:
    from heliograph.models.item_lm import ItemLM

    build.embed()
    config = search.config
    known = _known(search, build, None)
    return gather(
        read_sources(fit_for_trials(build, known, search.settings.held_out), config.index),
        ItemLM.load(build.stages.folder("models/item_lm")),
        known.held_out.sample(config.evaluation.max_users, config.seed),
        deepest(search),
        len(build.catalogue),
    )


def _retrieval(search: Search, build: Build) -> Judge:
    from heliograph.models.item_lm import ItemLM
    from heliograph_tune.retrieval_trial import Opinion, require_room

    build.embed()
    config, n_items = search.config, len(build.catalogue)
    vectors = read_vectors(build.stages.folder("embeddings"))
    known = _known(search, build, vectors)
    asked = known.held_out.sample(config.evaluation.max_users, config.seed)
    require_room(asked, n_items)
    fit_for_trials(build, known, search.settings.held_out)
    item_lm = ItemLM.load(build.stages.folder("models/item_lm"))
    opinion = Opinion(item_lm.scores(asked.histories), asked.histories)
    return RetrievalJudge(known, opinion, asked, _cut(search))


def _cut(search: Search) -> int | None:
    return search.config.seed if draws_weights(search) else None


def _serving(search: Search, folder: RunFolder, build: Build) -> Prepared:
    from heliograph_tune.pipeline_trial import fit
    from heliograph_tune.serving_prepare import place_of, serve_for_trials, write_search_bundle

    config, load = search.config, search.settings.load
    blend = fit(_evidence(search, build), config)
    known = _known(search, build, None)
    asked = known.held_out.sample(load.users, search.settings.seed)
    bundle = write_search_bundle(build, asked, blend, folder.bundles)
    place = place_of(folder, bundle)
    judge = ServingJudge(place, Visitors(asked.targets), load, build.catalogue)
    return Prepared(judge, _inputs(build), partial(serve_for_trials, place, config))


def _inputs(build: Build) -> dict[str, str]:
    return {name: result.digest for name, result in build.stages.results.items()}


def _known(search: Search, build: Build, vectors: NDArray[np.float32] | None) -> Knowledge:
    events, n_items = _events(build), len(build.catalogue)
    return without_test_items(events, n_items, vectors, search.settings.held_out)


def _events(build: Build) -> Interactions:
    return read_events(build.stages.folder("events"), build.catalogue)
