"""The types of FAISS indexes: how each is built, and searched with and without a filter.

Each type finds the items nearest to many queries at once, or those nearest to one query among the
items that are allowed. What is allowed goes into the search as a selector; where there is little
of it, the approximate types look at all of it instead, which is exact and takes less time.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heliograph.config import IndexConfig
from heliograph.workspace import missing_extra

try:
    import faiss
except ModuleNotFoundError as error:
    raise missing_extra("faiss") from error

FAISS: Any = faiss
"""The same: its type stubs do not know how parameters and selectors are made in Python."""

GPU_MOST = 2048
"""FAISS finds at most this many hits a query on a GPU, and looks into as many lists."""

ITEMS_A_LIST = 39
"""FAISS asks for so many vectors to learn the centre of a list from."""

EQUALLY_LONG = 1.001
"""Quotient of the longest vector and the shortest that is not zero, up to which it is rounding."""

STEP_COSTS = 32
"""Items of a scan that take as long as one step of a walk through a graph: a step scores eight
neighbours or so, which lie far from each other in memory."""

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(queries, depth) scores and items; -1 where no item was found."""


class Searcher(Protocol):
    """A FAISS index, and how it is searched."""

    def nearest(self, queries: NDArray[np.float32], depth: int) -> Found:
        """Search all items for (queries, dim) queries."""
        ...

    def among(self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
        """Search the allowed items for a (1, dim) query."""
        ...

    def exactly(self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
        """Look at every allowed item for a (1, dim) query."""
        ...


class Flat:
    """Looks at every item."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self.on_gpu = _on_gpu(index)

    def nearest(self, queries: NDArray[np.float32], depth: int) -> Found:
        """See `Searcher`."""
        use_gpu = self.on_gpu is not None and depth <= GPU_MOST
        return _search(self.on_gpu if use_gpu else self.index, queries, depth, None)

    def among(self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
        """See `Searcher`."""
        return self.exactly(query, depth, allowed)

    def exactly(self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
        """See `Searcher`."""
        return _scan(self.index, query, depth, allowed)


class Ivf:
    """Looks at the items of the lists whose centres are nearest."""

    def __init__(self, index: Any, nprobe: int) -> None:
        """Take an index and the lists that are looked into for a query, all of them at most."""
        self.index = index
        self.nprobe = min(nprobe, index.nlist)
        self.on_gpu = _on_gpu(index) if self.nprobe <= GPU_MOST else None
        if self.on_gpu is not None:  # several GPUs are replicas, which take no parameters later
            faiss.GpuParameterSpace().set_index_parameter(self.on_gpu, "nprobe", self.nprobe)

    def nearest(self, queries: NDArray[np.float32], depth: int) -> Found:
        """See `Searcher`."""
        if self.on_gpu is not None and depth <= GPU_MOST:
            return _search(self.on_gpu, queries, depth, None)
        return _search(self.index, queries, depth, FAISS.SearchParametersIVF(nprobe=self.nprobe))

    def among(self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
        """See `Searcher`; so many lists that as many allowed items are met as without a filter."""
        return self._among(query, depth, allowed, math.ceil(self.nprobe / _share(allowed)))

    def exactly(self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
        """See `Searcher`."""
        return self._among(query, depth, allowed, self.index.nlist)

    def _among(
        self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_], lists: int
    ) -> Found:
        parameters = FAISS.SearchParametersIVF(
            sel=_bitmap(allowed), nprobe=min(lists, self.index.nlist)
        )
        return _search(self.index, query, depth, parameters)


class Hnsw:
    """Walks through a graph of near items, on a CPU: FAISS moves none to GPUs."""

    def __init__(self, index: Any, ef_search: int) -> None:
        """Take an index and the length of the list of the nearest items during the walk."""
        self.index = index
        self.ef_search = ef_search

    def nearest(self, queries: NDArray[np.float32], depth: int) -> Found:
        """See `Searcher`."""
        if self.index.ntotal <= STEP_COSTS * self.ef_search:
            return _search(self.index.storage, queries, depth, None)
        parameters = FAISS.SearchParametersHNSW(efSearch=self.ef_search)
        return _search(self.index, queries, depth, parameters)

    def among(self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
        """See `Searcher`; so long a walk that as many allowed items are met as without a filter."""
        steps = math.ceil(self.ef_search / _share(allowed))
        if np.count_nonzero(allowed) <= STEP_COSTS * steps:
            return self.exactly(query, depth, allowed)
        parameters = FAISS.SearchParametersHNSW(sel=_bitmap(allowed), efSearch=steps)
        return _search(self.index, query, depth, parameters)

    def exactly(self, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
        """See `Searcher`."""
        return _scan(self.index.storage, query, depth, allowed)


def build_faiss(vectors: NDArray[np.float32], config: IndexConfig) -> Any:
    """Index (items, dim) vectors; ids are item numbers. Flat where `why_flat` says so."""
    dim = vectors.shape[1]
    index: Any = faiss.IndexFlatIP(dim)
    if why_flat(vectors, config) is None:
        match config.type:
            case "ivf":
                lists = lists_for(len(vectors), config)
                index = faiss.IndexIVFFlat(index, dim, lists, faiss.METRIC_INNER_PRODUCT)
                index.train(vectors)
            case "hnsw":
                index = faiss.IndexHNSWFlat(dim, config.links, faiss.METRIC_INNER_PRODUCT)
                index.hnsw.efConstruction = config.ef_construction
    index.add(vectors)
    return index


def searcher_of(index: Any, config: IndexConfig) -> Searcher:
    """Return how an index is searched: its own type decides, which need not be that asked for."""
    if isinstance(index, faiss.IndexIVF):
        return Ivf(index, config.nprobe)
    if isinstance(index, faiss.IndexHNSW):
        return Hnsw(index, config.ef_search)
    return Flat(index)


def why_flat(vectors: NDArray[np.float32], config: IndexConfig) -> str | None:
    """Say why the index of (items, dim) vectors is flat though another type is asked for.

    Returns:
        The reason; None: it is of the type that is asked for.
    """
    if config.type == "flat":
        return None
    if config.type == "ivf":
        lists = max(2, lists_for(len(vectors), config))
        if len(vectors) < ITEMS_A_LIST * lists:
            return f"too few items for {lists} lists"
    lengths = np.linalg.norm(vectors, axis=1)
    lengths = lengths[lengths > 0]
    if not len(lengths) or lengths.max() > EQUALLY_LONG * lengths.min():
        return "vectors not equally long"  # see docs/operating.md
    return None


def lists_for(n_items: int, config: IndexConfig) -> int:
    """Return how many lists so many items are divided into."""
    return config.lists or min(int(4 * math.sqrt(n_items)), n_items // ITEMS_A_LIST)


def _on_gpu(index: Any) -> Any | None:
    """Return a copy on all GPUs that FAISS sees; None: there is none.

    The index on the CPU stays: FAISS applies filters on CPUs only.
    """
    has_gpu = getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    return faiss.index_cpu_to_all_gpus(index) if has_gpu else None


def _share(allowed: NDArray[np.bool_]) -> float:
    return max(1, int(np.count_nonzero(allowed))) / max(1, len(allowed))


def _scan(index: Any, query: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_]) -> Found:
    """Look at every allowed item of a flat index: at these alone where they are few."""
    if 2 * np.count_nonzero(allowed) < len(allowed):
        selector = FAISS.IDSelectorArray(np.flatnonzero(allowed))
    else:
        selector = _bitmap(allowed)
    parameters = FAISS.SearchParameters(sel=selector)
    return _search(index, query, depth, parameters)


def _bitmap(allowed: NDArray[np.bool_]) -> Any:
    return FAISS.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _search(index: Any, queries: NDArray[np.float32], depth: int, parameters: Any) -> Found:
    scores, items = index.search(queries, depth, params=parameters)
    return scores, items
