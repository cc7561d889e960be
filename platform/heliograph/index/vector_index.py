"""An index behind one interface, as it was built or with the changes of items since."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from heliograph.config import IndexConfig
from heliograph.index.hits import NO_ITEM, Hits, mask_of, no_hits
from heliograph.index.types import Found, build_faiss, searcher_of


class Index(Protocol):
    """Finds the items with the largest inner product with a query."""

    def __len__(self) -> int:
        """Return how many items there are."""
        ...

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
            Hits of shape (queries, k), complete whenever k eligible items exist. They are the best
            ones if the index is flat, and nearly always if it is not.
        """
        ...

    def revised(self, vectors: NDArray[np.float32], numbers: NDArray[np.int32]) -> Index:
        """Return an index of other vectors, as this one was built; it stays as it is.

        Args:
            vectors: (items, dim) of as many items or more.
            numbers: Of the items whose vector is another one or new, ascending, one at least.
        """
        ...


class VectorIndex:
    """A FAISS index whose ids are item numbers; see `Index`."""

    def __init__(self, index: Any, config: IndexConfig) -> None:
        """Wrap a FAISS index; on a GPU if FAISS sees one and has its type there."""
        self.on_cpu = index
        self.searcher = searcher_of(index, config)

    @classmethod
    def build(cls, vectors: NDArray[np.float32], config: IndexConfig | None = None) -> Self:
        """Index (items, dim) vectors; None: for exact search."""
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError(
                f"vectors must be (items, dim) and finite, got shape {vectors.shape} "
                f"with {np.count_nonzero(~np.isfinite(vectors))} values that are not"
            )
        config = config or IndexConfig()
        return cls(build_faiss(np.ascontiguousarray(vectors, np.float32), config), config)

    def __len__(self) -> int:
        return int(self.on_cpu.ntotal)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self.on_cpu.d)

    @property
    def is_flat(self) -> bool:
        """Whether every search looks at every item."""
        return isinstance(self.on_cpu, faiss.IndexFlat)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """See `Index.search`."""
        _check(queries, k, eligible, (len(self), self.dim))
        queries = np.ascontiguousarray(queries, np.float32)
        excluded = _none(queries) if excluded is None else excluded
        longest = max((len(items) for items in excluded), default=0)
        if eligible is None and longest <= k:
            return self._search_deeper(queries, k, excluded, k + longest)
        return self._search_filtered(queries, k, excluded, eligible)

    def revised(self, vectors: NDArray[np.float32], numbers: NDArray[np.int32]) -> Index:
        """See `Index.revised`."""
        if self.is_flat:
            return VectorIndex.build(vectors)
        return RevisedIndex(self, numbers, vectors[numbers])

    def save(self, path: Path) -> None:
        """Write the index in FAISS's own format."""
        faiss.write_index(self.on_cpu, str(path))

    @classmethod
    def load(cls, path: Path, config: IndexConfig) -> Self:
        """Read what `save` wrote; of the settings those count that are of searching."""
        return cls(faiss.read_index(str(path)), config)

    def _search_deeper(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]],
        depth: int,
    ) -> Hits:
        """Search all queries at once, so deep that k hits remain when the excluded are dropped."""
        scores, items = self.searcher.nearest(queries, min(depth, len(self)))
        hits = no_hits(len(queries), k)
        for row, unwanted in enumerate(excluded):
            refused = mask_of(unwanted, len(self))
            columns = np.flatnonzero(~refused[items[row]] & (items[row] != NO_ITEM))[:k]
            if self._is_complete(len(columns), k, refused):
                hits.items[row, : len(columns)] = items[row, columns]
                hits.scores[row, : len(columns)] = scores[row, columns]
            else:
                _fill(hits, row, self._exactly(queries, row, k, ~refused))
        return hits

    def _search_filtered(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]],
        eligible: NDArray[np.bool_] | None,
    ) -> Hits:
        """Search query by query, among the items that each may return."""
        hits = no_hits(len(queries), k)
        for row, unwanted in enumerate(excluded):
            allowed = np.ones(len(self), bool) if eligible is None else eligible.copy()
            allowed[unwanted] = False
            found = self.searcher.among(queries[row : row + 1], min(k, len(self)), allowed)
            if not self._is_complete(int(np.count_nonzero(found[1] != NO_ITEM)), k, ~allowed):
                found = self._exactly(queries, row, k, allowed)
            _fill(hits, row, found)
        return hits

    def _is_complete(self, found: int, k: int, refused: NDArray[np.bool_]) -> bool:
        """Tell whether a search found k items, or all that were not refused."""
        return found == k or found == len(self) - int(np.count_nonzero(refused))

    def _exactly(
        self, queries: NDArray[np.float32], row: int, k: int, allowed: NDArray[np.bool_]
    ) -> Found:
        return self.searcher.exactly(queries[row : row + 1], min(k, len(self)), allowed)


class RevisedIndex:
    """An index some of whose vectors are others now, with new ones behind them; see `Index`.

    No type but the flat one lets go of a vector, or takes one in, without a part of it being built
    anew. So it stays as it was, what has changed is never found in it, and all changed and new
    vectors are looked at beside it.
    """

    def __init__(
        self, base: VectorIndex, numbers: NDArray[np.int32], vectors: NDArray[np.float32]
    ) -> None:
        """Take the index as it was built, and (numbers, dim) vectors that are changed or new.

        Every item behind those of the index is among the numbers, which ascend.
        """
        self.base = base
        self.numbers = numbers
        self.changed = VectorIndex.build(vectors)
        self.replaced = numbers[numbers < len(base)]

    def __len__(self) -> int:
        return max(len(self.base), int(self.numbers[-1]) + 1)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """See `Index.search`."""
        _check(queries, k, eligible, (len(self), self.base.dim))
        excluded = _none(queries) if excluded is None else excluded
        there = len(self.base)
        unchanged = self.base.search(
            queries,
            k,
            [np.concatenate([items[items < there], self.replaced]) for items in excluded],
            None if eligible is None else eligible[:there],
        )
        changed = self.changed.search(
            queries,
            k,
            [np.flatnonzero(np.isin(self.numbers, items)).astype(np.int32) for items in excluded],
            None if eligible is None else eligible[self.numbers],
        )
        numbered = np.where(changed.items == NO_ITEM, NO_ITEM, self.numbers[changed.items])
        return unchanged.beside(Hits(numbered, changed.scores))

    def revised(self, vectors: NDArray[np.float32], numbers: NDArray[np.int32]) -> Index:
        """See `Index.revised`."""
        both = np.union1d(self.numbers, numbers).astype(np.int32)
        return RevisedIndex(self.base, both, vectors[both])


def _none(queries: NDArray[np.float32]) -> Sequence[NDArray[np.int32]]:
    return [np.zeros(0, np.int32)] * len(queries)


def _fill(hits: Hits, row: int, found: Found) -> None:
    """Put what was found for one query into its row."""
    scores, items = found[0][0], found[1][0]
    hits.items[row, : len(items)] = items
    hits.scores[row, : len(items)] = np.where(items == NO_ITEM, -np.inf, scores)


def _check(
    queries: NDArray[np.float32],
    k: int,
    eligible: NDArray[np.bool_] | None,
    shape: tuple[int, int],
) -> None:
    """Refuse a search that cannot be right in an index of (items, dim) vectors."""
    n_items, dim = shape
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(
            f"queries have shape {queries.shape}, but the index holds vectors of "
            f"dim {dim}; use the model the index was built from"
        )
    if k < 1:
        raise ValueError(f"k is {k}, but a search returns at least 1 hit")
    if eligible is not None and eligible.shape != (n_items,):
        raise ValueError(
            f"eligible has shape {eligible.shape}, but the index holds {n_items} items; "
            "make the mask from the catalogue the index was built from"
        )
