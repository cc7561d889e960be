"""Vectors -> FAISS: exact inner-product search with the filter inside the search.

Other index types will stand behind the same class; callers see item numbers and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from heliograph.workspace import missing_extra

try:
    import faiss
except ModuleNotFoundError as error:
    raise missing_extra("faiss") from error

NO_ITEM = -1
GPU_MAX_K = 2048
"""FAISS finds at most this many hits a query on a GPU."""


@dataclass(frozen=True)
class Hits:
    """The best items of a batch of queries, best first."""

    items: NDArray[np.int32]
    """(queries, k) item numbers; -1 where fewer than k items are eligible."""

    scores: NDArray[np.float32]
    """(queries, k); -inf beside -1."""


class VectorIndex:
    """Finds the items with the largest inner product with a query."""

    def __init__(self, index: Any) -> None:
        """Wrap a FAISS index whose ids are item numbers; on a GPU if FAISS sees one.

        The CPU index stays: FAISS applies filters on CPUs only.
        """
        self.on_cpu = index
        has_gpu = getattr(faiss, "get_num_gpus", lambda: 0)() > 0
        self.fastest = faiss.index_cpu_to_all_gpus(index) if has_gpu else index

    @classmethod
    def build(cls, vectors: NDArray[np.float32]) -> Self:
        """Index (items, dim) vectors for exact search."""
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError(
                f"vectors must be (items, dim) and finite, got shape {vectors.shape} "
                f"with {np.count_nonzero(~np.isfinite(vectors))} values that are not"
            )
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors, np.float32))
        return cls(index)

    def __len__(self) -> int:
        return int(self.on_cpu.ntotal)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self.on_cpu.d)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Find the k best eligible items of every query.

        Args:
            queries: (queries, dim).
            k: Hits a query, >= 1.
            excluded: For each query the items that it must not return; None: none.
            eligible: (items,), true where an item may be returned at all; None: all.

        Returns:
            Hits of shape (queries, k), complete whenever k eligible items exist.
        """
        self._check(queries, k, eligible)
        queries = np.ascontiguousarray(queries, np.float32)
        excluded = [np.zeros(0, np.int32)] * len(queries) if excluded is None else excluded
        longest = max((len(items) for items in excluded), default=0)
        if eligible is None and longest <= k:
            return self._search_deeper(queries, k, excluded, k + longest)
        return self._search_filtered(queries, k, excluded, eligible)

    def save(self, path: Path) -> None:
        """Write the index in FAISS's own format."""
        faiss.write_index(self.on_cpu, str(path))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(faiss.read_index(str(path)))

    def _check(
        self, queries: NDArray[np.float32], k: int, eligible: NDArray[np.bool_] | None
    ) -> None:
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(
                f"queries have shape {queries.shape}, but the index holds vectors of "
                f"dim {self.dim}; use the model the index was built from"
            )
        if k < 1:
            raise ValueError(f"k is {k}, but a search returns at least 1 hit")
        if eligible is not None and eligible.shape != (len(self),):
            raise ValueError(
                f"eligible has shape {eligible.shape}, but the index holds {len(self)} items; "
                "make the mask from the catalogue the index was built from"
            )

    def _search_deeper(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]],
        depth: int,
    ) -> Hits:
        """Search all queries at once, so deep that k hits remain when the excluded are dropped."""
        depth = min(depth, len(self))
        index = self.fastest if depth <= GPU_MAX_K else self.on_cpu
        scores, items = index.search(queries, depth)
        hits = _no_hits(len(queries), k)
        for row, unwanted in enumerate(excluded):
            kept = ~mask_of(unwanted, len(self))[items[row]] & (items[row] != NO_ITEM)
            columns = np.flatnonzero(kept)[:k]
            hits.items[row, : len(columns)] = items[row, columns]
            hits.scores[row, : len(columns)] = scores[row, columns]
        return hits

    def _search_filtered(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]],
        eligible: NDArray[np.bool_] | None,
    ) -> Hits:
        """Search query by query, among the items that each may return."""
        depth = min(k, len(self))
        hits = _no_hits(len(queries), k)
        for row, unwanted in enumerate(excluded):
            allowed = np.ones(len(self), bool) if eligible is None else eligible.copy()
            allowed[unwanted] = False
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            found = self.on_cpu.search(queries[row : row + 1], depth, params=parameters)
            hits.scores[row, :depth], hits.items[row, :depth] = found[0][0], found[1][0]
        hits.scores[hits.items == NO_ITEM] = -np.inf
        return hits


def mask_of(items: NDArray[np.int32], n_items: int) -> NDArray[np.bool_]:
    """Return (n_items,), true at the given items."""
    mask = np.zeros(n_items, bool)
    mask[items] = True
    return mask


def distinct(items: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return each of a few hundred items once, ascending; `np.unique` hashes them first."""
    ordered = np.sort(items)
    once: NDArray[np.int32] = ordered[np.diff(ordered, prepend=NO_ITEM - 1) != 0]
    return once


def largest(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return the places of the k largest of (n,) scores, best first, equal ones in order of place.

    Without a full sort: only what is at least as large as the k-th largest is sorted. -inf is
    never among them, so that fewer than k places may come back.
    """
    floor = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
    places = np.flatnonzero((scores >= floor) & (scores > -np.inf))
    return places[np.argsort(-scores[places], kind="stable")[:k]]


def _no_hits(queries: int, k: int) -> Hits:
    return Hits(
        items=np.full((queries, k), NO_ITEM, np.int32),
        scores=np.full((queries, k), -np.inf, np.float32),
    )
