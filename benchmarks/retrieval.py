"""FAISS alone, and the retriever around it, without Ray and HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from figures import Plan, Row, row_of, timed
from heliograph.bundle import open_bundle
from heliograph.index import VectorIndex
from heliograph.interactions import History
from workload import retriever_of, users_of

GROUP = "retrieval alone"
BATCH = 32
Query = TypeVar("Query")


def measure_retrieval(plan: Plan) -> list[Row]:
    """Measure the text index and the retriever, one history and 32 at a time, on one thread."""
    faiss.omp_set_num_threads(1)  # as in the graph, where Ray gives a replica one thread
    bundle = open_bundle(plan.bundle)
    retriever = retriever_of(bundle)
    histories = [user.history for user in users_of(bundle)]
    queries = list(retriever.sources.text.queries(histories))
    index = VectorIndex.load(bundle.path("index/text.faiss"), bundle.config.index)
    depth, count = bundle.config.candidates.depth, bundle.config.candidates.count

    def search(chunk: Sequence[NDArray[np.float32]]) -> object:
        return index.searcher.nearest(np.stack(chunk), depth)

    def retrieve(chunk: Sequence[History]) -> object:
        return retriever.retrieve(chunk, count)

    faiss_name = f"FAISS, {len(index):,} x {index.dim}, {depth} hits"
    fused_name = f"retriever, all sources fused, {count} candidates"
    return [
        *_one_and_batches(plan, faiss_name, search, queries),
        *_one_and_batches(plan, fused_name, retrieve, histories),
    ]


def _one_and_batches(
    plan: Plan, name: str, work: Callable[[Sequence[Query]], object], queries: Sequence[Query]
) -> list[Row]:
    rows = []
    for size in (1, BATCH):
        starts = range(0, max(1, len(queries) - size + 1), size)
        calls = [partial(work, queries[start : start + size]) for start in starts]
        run = timed(calls, min(size, len(queries)), plan.seconds)
        rows.append(row_of(GROUP, f"{name}: {_title(size)}", run))
    return rows


def _title(size: int) -> str:
    return "one at a time" if size == 1 else f"batches of {size}"
