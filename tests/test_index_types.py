"""Every type of index keeps its promises, and the approximate ones miss next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.blend import Blend
from heliograph.bundle import read_sources
from heliograph.candidates import Retriever
from heliograph.config import AlsConfig, CandidatesConfig, HeliographConfig, IndexConfig, TextConfig
from heliograph.config_file import ConfigError, load_config
from heliograph.index import NO_ITEM, Hits, Index, RevisedIndex, VectorIndex, why_flat
from heliograph.index.types import Hnsw, Ivf, lists_for
from heliograph.model_stages import build_indexes
from heliograph.models.als import Als
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from heliograph.revision import Revision, revised_sources
from heliograph.stages import Stages
from small_shop import Silent
from worlds import clustered_vectors, cycle

FLAT = IndexConfig()
IVF = IndexConfig(type="ivf", lists=2, nprobe=1)
HNSW = IndexConfig(type="hnsw", links=4, ef_construction=8, ef_search=1)
HASTY = [FLAT, IVF, HNSW]
"""Of each type one that looks at as little as it can: what it returns is incomplete at once."""

KINDS = {"flat": faiss.IndexFlat, "ivf": faiss.IndexIVFFlat, "hnsw": faiss.IndexHNSWFlat}
K = 100


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def require_promises(
    hits: Hits,
    scores: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int32]],
    eligible: NDArray[np.bool_] | None,
) -> None:
    """Check hits against (queries, items) true scores; which items they are is free."""
    assert hits.items.shape == hits.scores.shape == (len(scores), k)
    for row, true in enumerate(scores):
        allowed = np.ones(len(true), bool) if eligible is None else eligible.copy()
        allowed[excluded[row]] = False
        found = min(k, int(allowed.sum()))
        items = hits.items[row, :found]
        assert len(set(items.tolist())) == found and allowed[items].all()
        np.testing.assert_allclose(hits.scores[row, :found], true[items], atol=1e-5)
        assert (np.diff(hits.scores[row, :found]) <= 0).all()
        assert (hits.items[row, found:] == NO_ITEM).all()
        assert np.isneginf(hits.scores[row, found:]).all()


@pytest.mark.parametrize("config", HASTY, ids=lambda config: config.type)
@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(80, 200),
    n_new=st.integers(0, 5),
    n_changed=st.integers(0, 40),
    k=st.integers(1, 250),
    most_excluded=st.integers(0, 250),
    share_eligible=st.none() | st.floats(0, 1),
    copies=st.booleans(),
)
def test_what_must_not_come_back_never_does_and_min_k_eligible_do(
    config: IndexConfig,
    seed: int,
    n_items: int,
    n_new: int,
    n_changed: int,
    k: int,
    most_excluded: int,
    share_eligible: float | None,
    copies: bool,
) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(n_items, 4)))
    if copies:
        vectors[n_items // 4 :] = vectors[0]
    index: Index = VectorIndex.build(vectors, config)
    changed = rng.choice(n_items, n_changed, replace=False)
    numbers = np.sort(np.concatenate([changed, n_items + np.arange(n_new)])).astype(np.int32)
    if len(numbers):
        vectors = np.concatenate([vectors, np.zeros((n_new, 4), np.float32)])
        vectors[numbers] = unit(rng.normal(size=(len(numbers), 4)))
        index = index.revised(vectors, numbers)
    assert len(index) == len(vectors)
    queries = rng.normal(size=(3, 4)).astype(np.float32)
    excluded = [
        rng.integers(0, len(index), rng.integers(0, most_excluded + 1)).astype(np.int32)
        for _ in queries
    ]
    eligible = None if share_eligible is None else rng.random(len(index)) < share_eligible
    hits = index.search(queries, k, excluded, eligible)
    require_promises(hits, queries @ vectors.T, k, excluded, eligible)


@dataclass(frozen=True)
class World:
    """Items in clusters, and queries between two clusters each, as a history of both makes them."""

    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    indexes: dict[str, VectorIndex]


@pytest.fixture(scope="module")
def world() -> World:
    """So many items that neither type looks at all of them by default."""
    rng = np.random.default_rng(3)
    centres = unit(rng.normal(size=(200, 32)))

    def near(centre: NDArray[np.float32]) -> NDArray[np.float32]:
        return unit(centre + 0.7 * rng.normal(size=centre.shape) / np.sqrt(centre.shape[1]))

    vectors = near(centres[rng.integers(0, 200, 30_000)])
    pairs = rng.integers(0, 200, (2, 50))
    queries = near(centres[pairs[0]] + 0.5 * centres[pairs[1]])
    ivf = VectorIndex.build(vectors, IndexConfig(type="ivf"))
    hnsw = VectorIndex.build(vectors, IndexConfig(type="hnsw"))
    return World(vectors, queries, {"ivf": ivf, "hnsw": hnsw})


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("share", [1, 0.5, 0.1, 0.01, 0.001])
def test_by_default_99_of_the_100_best_are_found_whatever_the_filter(
    world: World, kind: str, share: float
) -> None:
    eligible = np.random.default_rng(4).random(len(world.vectors)) < share
    hits = world.indexes[kind].search(world.queries, K, eligible=None if share == 1 else eligible)
    scores = np.where(eligible, world.queries @ world.vectors.T, -np.inf)
    found = min(K, int(eligible.sum()))
    last = -np.sort(-scores, axis=1)[:, found - 1 : found]
    assert (hits.scores[:, :found] >= last - 1e-5).mean() >= 0.99


def test_more_lists_and_longer_walks_find_more_in_the_same_index(world: World) -> None:
    def mean_score(kind: str, **changes: int) -> float:
        config = IndexConfig.model_validate({"type": kind} | changes)
        index = VectorIndex(world.indexes[kind].on_cpu, config)
        return float(index.search(world.queries, 10).scores.mean())

    assert mean_score("ivf", nprobe=1) < mean_score("ivf", nprobe=32)
    assert mean_score("hnsw", ef_search=10) < mean_score("hnsw", ef_search=100)


@pytest.mark.parametrize("config", HASTY, ids=lambda config: config.type)
def test_what_was_saved_and_loaded_finds_the_same_as_long_as_it_is_searched_the_same(
    tmp_path: Path, config: IndexConfig
) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(300, 4)))
    index = VectorIndex.build(vectors, config)
    assert isinstance(index.on_cpu, KINDS[config.type])
    index.save(tmp_path / "index.faiss")
    loaded = VectorIndex.load(tmp_path / "index.faiss", config)
    assert (len(loaded), loaded.dim) == (300, 4)
    before, after = (each.search(vectors[:9], 5) for each in (index, loaded))
    np.testing.assert_array_equal(after.items, before.items)
    np.testing.assert_array_equal(after.scores, before.scores)


def test_how_an_index_is_searched_is_no_part_of_its_file(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(300, 4)))
    files = []
    for nprobe in (1, 2):
        config = IndexConfig(type="ivf", lists=2, nprobe=nprobe)
        VectorIndex.build(vectors, config).save(tmp_path / "index.faiss")
        files.append((tmp_path / "index.faiss").read_bytes())
        loaded = VectorIndex.load(tmp_path / "index.faiss", config)
        assert isinstance(loaded.searcher, Ivf) and loaded.searcher.nprobe == nprobe
    assert files[0] == files[1]
    index = VectorIndex(faiss.IndexHNSWFlat(4, 4), IndexConfig(type="flat", ef_search=5))
    assert isinstance(index.searcher, Hnsw) and index.searcher.ef_search == 5


@pytest.mark.parametrize("n_items", [1, 2, 40, 77])
def test_a_catalogue_too_small_for_lists_gets_a_flat_index(n_items: int) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(n_items, 4)))
    config = IndexConfig(type="ivf")
    assert why_flat(vectors, config) == "too few items for 2 lists"
    index = VectorIndex.build(vectors, config)
    assert index.is_flat and index.search(vectors[:1], 1).items.tolist() == [[0]]
    assert VectorIndex.build(vectors, HNSW).search(vectors[:1], 1).items.tolist() == [[0]]


def test_lists_that_were_asked_for_need_39_items_each_too() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(389, 4)))
    config = IndexConfig(type="ivf", lists=10, nprobe=1)
    assert why_flat(vectors, config) == "too few items for 10 lists"
    assert why_flat(np.concatenate([vectors, vectors[:1]]), config) is None


def test_vectors_that_are_not_equally_long_get_a_flat_index() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(300, 4)))
    zero = vectors * (np.arange(300) > 9)[:, None]
    assert why_flat(zero, HNSW) is None  # texts that say nothing are as good as not there
    vectors[7] *= 2
    assert why_flat(vectors, HNSW) == why_flat(vectors, IVF) == "vectors not equally long"
    assert why_flat(np.zeros((300, 4), np.float32), HNSW) == "vectors not equally long"
    assert why_flat(vectors, FLAT) is None
    assert VectorIndex.build(vectors, HNSW).is_flat


def test_lists_are_four_roots_of_the_items_but_of_39_items_at_least() -> None:
    counts = {78: 2, 10_000: 256, 40_000: 800, 1_000_000: 4000}
    assert {n: lists_for(n, IndexConfig(type="ivf")) for n in counts} == counts


@pytest.mark.parametrize("config", HASTY, ids=lambda config: config.type)
def test_a_changed_vector_is_found_by_what_it_is_now_and_numbers_stay(config: IndexConfig) -> None:
    vectors = np.eye(100, dtype=np.float32)
    index = VectorIndex.build(vectors, config)
    now = np.concatenate([vectors, vectors[5:6]])  # item 100 is like item 5
    now[7], now[8] = vectors[3], -vectors[8]
    revised = index.revised(now, np.array([7, 8, 100], np.int32))
    assert isinstance(revised, RevisedIndex) is (config.type != "flat")
    hits = revised.search(vectors[[3, 5, 7]], 2)
    assert [set(row) for row in hits.items[:2].tolist()] == [{3, 7}, {5, 100}]
    assert hits.scores[2].max() == 0  # nothing is left where item 7 was
    assert index.search(vectors[7:8], 1).items.tolist() == [[7]]  # who has begun goes on
    now[7] = vectors[7]
    later = revised.revised(now, np.array([7], np.int32))
    assert later.search(vectors[7:8], 1).items.tolist() == [[7]]


@pytest.mark.parametrize("config", HASTY, ids=lambda config: config.type)
def test_a_search_of_changed_items_that_cannot_be_right_is_refused(config: IndexConfig) -> None:
    vectors = np.eye(100, dtype=np.float32)
    index = VectorIndex.build(vectors, config).revised(vectors, np.array([7], np.int32))
    with pytest.raises(ValueError, match="eligible has shape .99,., but the index holds 100 items"):
        index.search(vectors[:1], 1, eligible=np.ones(99, bool))


# settings


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("index.type=annoy", "index.type: Input should be 'flat', 'ivf' or 'hnsw'"),
        ("index.lists=63", "nprobe 64 is more than there are lists, 63; lower nprobe or raise"),
        ("index.nprobe=0", "index.nprobe: Input should be greater than or equal to 1"),
        ("index.links=1", "index.links: Input should be greater than or equal to 2"),
        ("index.probes=3", "index.probes: no such setting; did you mean index.nprobe"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(
    tmp_path: Path, override: str, said: str
) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(
        "{name: shop, workspace: w, items: {path: i, format: csv}, events: {path: e, format: csv}}"
    )
    assert load_config(path).index == FLAT
    with pytest.raises(ConfigError) as refused:
        load_config(path, [override])
    assert said in str(refused.value)


def test_what_a_type_does_not_read_makes_no_difference() -> None:
    ivf = IndexConfig(type="ivf", lists=100, nprobe=9, links=5, ef_search=6)
    assert ivf.searched == IndexConfig(type="ivf", lists=100, nprobe=9)
    assert ivf.built.model_dump() == IndexConfig(type="ivf").model_dump() | {"lists": 100}
    hnsw = IndexConfig(type="hnsw", links=5, ef_construction=7, ef_search=6, nprobe=9)
    assert hnsw.built == IndexConfig(type="hnsw", links=5, ef_construction=7)
    assert hnsw.searched == IndexConfig(type="hnsw", links=5, ef_construction=7, ef_search=6)
    assert IndexConfig(nprobe=9, ef_search=6).searched == FLAT


# the stage and who asks


N_ITEMS = 400


def run_index(stages: Stages, config: IndexConfig) -> bool:
    """Run the stage again; tells whether it had anything to do."""
    build_indexes(stages, config, "", N_ITEMS)
    return not stages.results["index"].reused


@pytest.fixture
def fitted(tmp_path: Path) -> Stages:
    """Return the stages up to the index, of a shop whose users walk round a circle of items."""
    stages, events = Stages(tmp_path, Silent()), cycle(N_ITEMS, n_users=400, length=8)
    models = HeliographConfig.model_fields["models"].default
    fits: dict[str, Callable[[], Any]] = {
        "popularity": lambda: Popularity.fit(models.popularity, events, N_ITEMS),
        "transitions": lambda: Transitions.fit(models.transitions, events, N_ITEMS),
        "als": lambda: Als.fit(AlsConfig(factors=8), events, N_ITEMS, 1),
        "text": lambda: Text.fit(TextConfig(), clustered_vectors(20, N_ITEMS // 20, 24)),
    }
    for name, fit in fits.items():

        def work(folder: Path, fit: Callable[[], Any] = fit) -> dict[str, float]:
            fit().save(folder)
            return {}

        stages.run(f"models/{name}", {}, {}, work)
    return stages


def test_the_stage_runs_again_for_settings_that_its_type_is_built_with_and_no_others(
    fitted: Stages,
) -> None:
    assert run_index(fitted, FLAT)
    assert not run_index(fitted, IndexConfig(nprobe=3, lists=4, links=5, ef_search=6))
    assert run_index(fitted, IndexConfig(type="ivf", lists=4, nprobe=4))
    assert not run_index(fitted, IndexConfig(type="ivf", lists=4, nprobe=2, links=3))
    assert run_index(fitted, IndexConfig(type="ivf", lists=5, nprobe=4))
    assert run_index(fitted, IndexConfig(type="hnsw"))
    assert not run_index(fitted, IndexConfig(type="hnsw", ef_search=5))
    assert run_index(fitted, IndexConfig(type="hnsw", links=5))


def test_the_stage_names_the_indexes_that_are_flat_all_the_same_and_why(fitted: Stages) -> None:
    run_index(fitted, FLAT)
    assert fitted.results["index"].counts == {"items": N_ITEMS}
    run_index(fitted, IndexConfig(type="ivf", lists=100, nprobe=4))
    assert fitted.results["index"].counts == {
        "items": N_ITEMS,
        "flat index of als (too few items for 100 lists)": 1,
        "flat index of text (too few items for 100 lists)": 1,
    }
    run_index(fitted, IndexConfig(type="hnsw"))
    assert fitted.results["index"].counts == {
        "items": N_ITEMS,
        "flat index of als (vectors not equally long)": 1,
    }


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_items_that_change_online_are_found_by_what_they_are_now(fitted: Stages, kind: str) -> None:
    config = IndexConfig.model_validate({"type": kind, "lists": 10, "nprobe": 10})
    run_index(fitted, config)
    before = read_sources(fitted.workspace, config)
    texts = clustered_vectors(20, N_ITEMS // 20, 24)
    reworded = np.array([5, N_ITEMS], np.int32)  # both are about what items 7, 27, 47, ... are
    revision = Revision(
        N_ITEMS + 1, reworded, pa.table({}), reworded, texts[[7, 27]], 1, np.zeros(0, np.int32)
    )
    sources = revised_sources(before, revision)
    retriever = Retriever(sources, CandidatesConfig(), Blend.uniform({"text": 1.0}))
    found = retriever.retrieve([np.array([47], np.int32)], 21).items[0].tolist()
    assert set(found) - {NO_ITEM} >= {5, N_ITEMS, *range(7, N_ITEMS, 20)} - {47}
    of_its_past = sources.indexes["text"].search(before.text.item_vectors[25:26], 20)
    assert set(of_its_past.items[0].tolist()) >= set(range(25, N_ITEMS, 20))
    assert 5 not in of_its_past.items[0, :19]
    assert before.indexes["text"].search(before.text.item_vectors[5:6], 1).items.tolist() == [[5]]


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_shop_is_built_and_asked_with_any_type(fitted: Stages, kind: str) -> None:
    found = []
    for config in (FLAT, IndexConfig.model_validate({"type": kind, "nprobe": 10})):
        run_index(fitted, config)
        sources = read_sources(fitted.workspace, config)
        text = sources.indexes["text"]
        assert isinstance(text, VectorIndex) and isinstance(text.on_cpu, KINDS[config.type])
        blend = Blend.uniform({"transitions": 1.0, "text": 1.0})
        retriever = Retriever(sources, CandidatesConfig(depth=10), blend)
        histories = [np.array([start, start + 1], np.int32) for start in range(0, 300, 10)]
        eligible = np.arange(N_ITEMS) % 3 > 0
        found.append(retriever.retrieve(histories, 10, eligible=eligible).items)
        assert eligible[found[-1]].all()
    assert (found[0] == found[1]).mean() > 0.99
