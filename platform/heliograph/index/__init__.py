"""Vectors -> FAISS -> the items with the largest inner product, the filter inside the search.

Callers see item numbers and scores, whatever the type of the index.
"""

from __future__ import annotations

from heliograph.index.hits import NO_ITEM, Hits, distinct, largest, mask_of
from heliograph.index.types import why_flat
from heliograph.index.vector_index import Index, RevisedIndex, VectorIndex

__all__ = [
    "Hits",
    "Index",
    "NO_ITEM",
    "RevisedIndex",
    "VectorIndex",
    "distinct",
    "largest",
    "mask_of",
    "why_flat",
]
