"""Flat, ivf and hnsw on the same vectors: queries a second, and how much each finds.

    python benchmarks/index_types.py [--items 200000] [--dim 64] [--seconds 0.5] [--repeats 3]

The vectors lie in clusters, and a query lies between two of these, as a history of two subjects
does. Searches run one at a time on one thread, as in a replica; indexes are built on all cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from figures import HIGHEST, LOWEST, REQUESTS, number, summary, timed
from heliograph.config import IndexConfig
from heliograph.index import VectorIndex
from heliograph.workspace import write_json
from machine import cores, describe_machine

ROOT = Path(__file__).resolve().parent.parent
TYPES = (IndexConfig(), IndexConfig(type="ivf"), IndexConfig(type="hnsw"))
QUERIES = 200
K = 100
SHARES = (1.0, 0.5, 0.1, 0.01)
"""Of the items that a filter lets through, at random; 1: no filter."""

ITEMS_A_CLUSTER = 200
SPREAD = 0.7
"""Length of the noise around a cluster's centre, which is of length 1."""

Vectors = NDArray[np.float32]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one run (default: 0.5)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of a kind (default: 3)")
    out = ROOT / "benchmarks" / "results" / "index-types.json"
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    found = describe_machine() | {"items": arguments.items, "dim": arguments.dim, "k": K}
    vectors, queries = world(arguments.items, arguments.dim)
    rows = list(measure(vectors, queries, arguments.seconds, arguments.repeats))
    write_json(arguments.out, found | {"rows": rows})


def world(items: int, dim: int) -> tuple[Vectors, Vectors]:
    """Return (items, dim) vectors and (QUERIES, dim) queries."""
    rng = np.random.default_rng(1)
    clusters = max(2, items // ITEMS_A_CLUSTER)
    centres = unit(rng.normal(size=(clusters, dim)))
    sizes = rng.dirichlet(np.ones(clusters))  # large ones and small ones
    first, second = rng.integers(0, clusters, (2, QUERIES))

    def near(places: Vectors) -> Vectors:
        noise = rng.normal(size=places.shape).astype(np.float32) / np.float32(np.sqrt(dim))
        return unit(places + np.float32(SPREAD) * noise)

    vectors = near(centres[rng.choice(clusters, items, p=sizes)])
    return vectors, near(centres[first] + centres[second] / 2)


def measure(
    vectors: Vectors, queries: Vectors, seconds: float, repeats: int
) -> Iterator[dict[str, object]]:
    """Yield a row for each type and filter, and print it."""
    rng = np.random.default_rng(2)
    filters = {share: rng.random(len(vectors)) < share for share in SHARES}
    best = {share: last_scores(vectors, queries, allowed) for share, allowed in filters.items()}
    for config in TYPES:
        faiss.omp_set_num_threads(cores())
        started = time.perf_counter()
        index = VectorIndex.build(vectors, config)
        build_s = time.perf_counter() - started
        faiss.omp_set_num_threads(1)
        for share, allowed in filters.items():
            eligible = None if share == 1 else allowed
            hits = index.search(queries, K, eligible=eligible)
            calls = [
                partial(index.search, queries[row : row + 1], K, eligible=eligible)
                for row in range(len(queries))
            ]
            figures = summary([timed(calls, 1, seconds) for _ in range(repeats)])
            row: dict[str, object] = {
                "type": config.type,
                "settings": config.searched.model_dump(),
                "share": share,
                "build_s": build_s,
                "recall@100": recall(hits.scores, best[share]),
                **figures,
            }
            tell(row, figures)
            yield row


def last_scores(
    vectors: Vectors, queries: Vectors, allowed: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return (queries, 1) the score of the last of the K best allowed items, by brute force."""
    scores = queries @ vectors[allowed].T
    return -np.partition(-scores, K - 1, axis=1)[:, K - 1 : K]


def recall(scores: Vectors, last: NDArray[np.float32]) -> float:
    """Return the share of (queries, K) hits that are as good as the last of the K best."""
    return float((scores >= last - 1e-5).mean())


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Return vectors of length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def tell(row: dict[str, object], figures: dict[str, float]) -> None:
    """Print one line."""
    shown = "  ".join(f"{name} {number(figures[name])}" for name in (REQUESTS, LOWEST, HIGHEST))
    print(
        f"{row['type']:<5} filter {row['share']:<5}  recall@100 {row['recall@100']:.4f}  {shown}  "
        f"built in {row['build_s']:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
