"""Items that the ranking engine takes up while it runs, against the item LM computed without it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from heliograph.config import ItemLMConfig, ServeConfig
from heliograph.models.item_lm import ItemLM, ItemLMNetwork
from heliograph.models.item_tokens import FIRST_ITEM, HF_FOLDER, TEXT_FILE, prompt
from heliograph.models.text import Text
from heliograph.ranking.engine import Engine, Query
from heliograph.ranking.engine_items import ItemEmbeddings, ItemTokens, with_room
from heliograph.ranking.vllm_engine import start_engine
from heliograph.revision import Revision
from worlds import clustered_vectors

N_ITEMS, DIM = 40, 16
SHAPE = ItemLMConfig(hidden_size=32, layers=2, heads=1, max_history=8, spare_tokens=0)
ROOM = 70
NOBODY = np.zeros(0, np.int32)
HISTORIES = [[3, 5, 7], [12], [0, 1, 2, 3, 4, 5], [39, 3]]


def text_model() -> Text:
    vectors = clustered_vectors(4, N_ITEMS // 4, DIM)
    mean = np.full(DIM, 0.01, np.float32)
    return Text(vectors, 2.0, mean)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an item LM that was never trained."""
    torch.manual_seed(1)
    network = ItemLMNetwork(SHAPE, text_model().item_vectors, dropout=0.0).eval()
    with torch.no_grad():
        network.residual[FIRST_ITEM : FIRST_ITEM + N_ITEMS].normal_(std=0.5)
        network.projection.weight.normal_(std=0.5)
    folder = tmp_path_factory.mktemp("item_lm")
    ItemLM(network, network.embeddings().detach()).save(folder)
    return folder


def embeddings(model: Path, capacity: int) -> ItemEmbeddings:
    return ItemEmbeddings(model / HF_FOLDER, model / TEXT_FILE, text_model(), capacity)


def told(known: ItemEmbeddings, now: Revision) -> ItemTokens:
    """Return the news for an engine that is told of them."""
    news = known.news(now)
    known.told(news)
    return news


def revision(
    n_items: int, reworded: list[int], seed: int = 5, gone: NDArray[np.int32] = NOBODY
) -> Revision:
    """Reword items at random; the same seed gives an item the same text."""
    vectors = np.random.default_rng(seed).normal(size=(N_ITEMS * 2, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = np.array(reworded, np.int32)
    return Revision(n_items, numbers, pa.table({}), numbers, vectors[numbers], 1, gone)


def expected(model: Path, now: Revision, histories: list[list[int]]) -> NDArray[np.float32]:
    """Return (histories, items) log-probabilities with the new embeddings, available items only."""
    fitted = ItemLM.load(model)
    table = fitted.embeddings.detach().clone()
    projection = fitted.network.projection.weight.detach()
    text = text_model()
    residual = table[FIRST_ITEM : FIRST_ITEM + N_ITEMS] - (
        torch.from_numpy(text.item_vectors) @ projection.T
    )
    for item, vector in zip(now.reworded.tolist(), text.centred(now.vectors), strict=True):
        table[FIRST_ITEM + item] = torch.from_numpy(vector) @ projection.T
        if item < N_ITEMS:
            table[FIRST_ITEM + item] += residual[item]
    states = ItemLM(fitted.network, table).states([np.array(h, np.int32) for h in histories])
    logits = (states @ table[FIRST_ITEM : FIRST_ITEM + now.n_items].T).numpy()
    logits[:, now.unavailable] = -np.inf
    scores: NDArray[np.float32] = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return scores


# what is written


def test_an_embedding_is_the_projected_text_and_what_was_learnt(model: Path) -> None:
    now = revision(N_ITEMS + 2, [4, N_ITEMS, N_ITEMS + 1])
    news = embeddings(model, 100).news(now)
    assert (news.tokens - FIRST_ITEM).tolist() == [4, N_ITEMS, N_ITEMS + 1]
    assert (news.end, news.is_stale) == (FIRST_ITEM + N_ITEMS + 2, True)
    assert news.embeddings.shape == (3, SHAPE.hidden_size)


def test_only_what_is_different_is_written_and_an_old_text_comes_back(model: Path) -> None:
    known = embeddings(model, 100)
    told(known, revision(N_ITEMS + 1, [4, N_ITEMS]))
    again = told(known, revision(N_ITEMS + 2, [4, N_ITEMS, N_ITEMS + 1]))
    assert (again.tokens.tolist(), again.is_stale) == ([FIRST_ITEM + N_ITEMS + 1], False)
    back = told(known, revision(N_ITEMS + 2, [N_ITEMS, N_ITEMS + 1]))
    assert (back.tokens.tolist(), back.is_stale) == ([FIRST_ITEM + 4], True)
    learnt = ItemLM.load(model).item_embeddings[4].numpy()
    np.testing.assert_array_equal(back.embeddings[0], learnt)
    assert not len(told(known, revision(N_ITEMS + 2, [N_ITEMS, N_ITEMS + 1])).tokens)


def test_what_there_is_no_room_for_stays_unknown(model: Path) -> None:
    known = embeddings(model, N_ITEMS + 1)
    gone = np.array([2, N_ITEMS + 2], np.int32)
    news = told(known, revision(N_ITEMS + 3, [N_ITEMS, N_ITEMS + 1, N_ITEMS + 2], gone=gone))
    assert news.tokens.tolist() == [FIRST_ITEM + N_ITEMS]
    assert (news.end, news.shut.tolist()) == (FIRST_ITEM + N_ITEMS + 1, [FIRST_ITEM + 2])
    assert known.n_items == N_ITEMS + 1


def test_a_folder_with_room_is_lent_and_the_models_own_is_not_touched(model: Path) -> None:
    own = model / HF_FOLDER
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    with with_room(own, 64) as lent:
        assert lent == own  # it has so many anyway
    with with_room(own, 128) as lent:
        assert lent != own and {path.name for path in lent.iterdir()} == set(before)
        assert '"vocab_size": 128' in (lent / "config.json").read_text()
    assert not lent.exists()
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


# the running engine


@pytest.fixture(scope="module", params=["in_process", "async"])
def engine(model: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    serve = ServeConfig(engine=request.param, room_for_items=ROOM, kv_cache_mb=16)
    with asyncio.Runner() as runner:

        async def start() -> Engine:
            return start_engine(model / HF_FOLDER, N_ITEMS, SHAPE.max_history, serve)

        started = runner.run(start())
        started.runner = runner  # type: ignore[attr-defined]
        yield started
        started.close()


def asked(engine: Engine, k: int) -> list[dict[int, float]]:
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    queries = [
        Query(prompt(np.array(history, np.int32), SHAPE.max_history), *nothing, False, k)
        for history in HISTORIES
    ]
    best = engine.runner.run(engine.rank(queries))  # type: ignore[attr-defined]
    return [
        dict(zip((one.tokens - FIRST_ITEM).tolist(), one.log_probabilities.tolist(), strict=True))
        for one in best
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what vLLM imports
@pytest.mark.cluster
def test_a_running_engine_ranks_as_if_it_had_started_so(engine: Engine, model: Path) -> None:
    known = embeddings(model, N_ITEMS + ROOM)
    gone = np.array([3, N_ITEMS], np.int32)
    for now in (
        revision(N_ITEMS, []),
        revision(N_ITEMS + 2, [N_ITEMS, N_ITEMS + 1]),
        revision(N_ITEMS + 3, [3, 12, N_ITEMS, N_ITEMS + 1, N_ITEMS + 2]),  # these are in prompts
        revision(N_ITEMS + 3, [3, 12, N_ITEMS, N_ITEMS + 1, N_ITEMS + 2], seed=6),
        revision(N_ITEMS + 3, [N_ITEMS, N_ITEMS + 1, N_ITEMS + 2], gone=gone),
    ):
        engine.runner.run(engine.take_up(told(known, now)))  # type: ignore[attr-defined]
        scores = expected(model, now, HISTORIES)
        for row, found in enumerate(asked(engine, now.n_items)):
            there = np.flatnonzero(scores[row] > -np.inf)
            assert sorted(found) == there.tolist()
            np.testing.assert_allclose(
                [found[item] for item in there.tolist()], scores[row, there], atol=2e-4
            )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("tokens", "k"),
    [([], 1), ([0] * (SHAPE.max_history + 3), 1), ([10**6], 1), ([0], 10**6)],
    ids=["no prompt", "too long", "no such token", "too many"],
)
def test_a_query_that_would_end_the_engine_is_refused_and_others_go_on(
    engine: Engine, tokens: list[int], k: int
) -> None:
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="must be|must have"):
        engine.runner.run(engine.rank([Query(tokens, *nothing, False, k)]))  # type: ignore[attr-defined]
    assert len(asked(engine, 3)) == len(HISTORIES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.cluster
def test_what_is_called_off_does_not_end_the_engine(engine: Engine, model: Path) -> None:
    known = embeddings(model, N_ITEMS + ROOM)
    news = told(known, revision(N_ITEMS, []))
    query = Query([0], np.zeros(0, np.int64), np.zeros(0, np.float32), False, 1)

    async def call_off(work: Coroutine[Any, Any, object]) -> None:
        asked = asyncio.ensure_future(work)
        await asyncio.sleep(0)
        asked.cancel()
        with suppress(asyncio.CancelledError):  # or it was over before
            await asked

    async def scenario() -> None:
        for _ in range(20):
            await asyncio.gather(call_off(engine.rank([query] * 8)), call_off(engine.take_up(news)))

    engine.runner.run(scenario())  # type: ignore[attr-defined]
    assert len(asked(engine, 3)) == len(HISTORIES)
