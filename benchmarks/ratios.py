"""Rows -> the ratios that the project is judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from figures import ITEMS, P50, REQUESTS, Row

NOOP = "Serve no-op"
RAW_ENGINE = "vLLM alone"
ENGINE = "ranking engine alone"
GRAPH = "graph over HTTP"
EMBEDDING = "embedding"

ONE_CLIENT = "1 client"
ONE_AT_A_TIME = "one request at a time"
FIRST_VISIT = "first visit"
SENTENCE_TRANSFORMERS = "sentence-transformers"

VALUE = "value"
TARGET, LIMIT = "at least", "at most"
THROUGHPUT_TARGET = 0.5
"""Of vLLM's best, with everything between the client and the engine."""

LATENCY_LIMIT_MS = 4.0
"""What a request alone may take beside vLLM and an empty endpoint."""


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Return every ratio whose rows were measured."""
    return [*_throughput(rows), *_latency(rows), *_embedding(rows)]


def _throughput(rows: Sequence[Row]) -> Iterator[Row]:
    for whose, group, target in (
        ("vLLM's", RAW_ENGINE, {TARGET: THROUGHPUT_TARGET}),
        ("our engine's", ENGINE, {}),
    ):
        for is_first, visit in ((False, "users who return"), (True, "users who are new")):
            graph, engine = _best(rows, GRAPH, is_first), _best(rows, group, is_first)
            if graph and engine:
                value = graph.figures[REQUESTS] / engine.figures[REQUESTS]
                yield Row(
                    "ratios",
                    f"graph's best requests/s / {whose} best, {visit}",
                    {VALUE: value} | target,
                    f"{graph.name} / {engine.name}" + (f"; {graph.note}" if graph.note else ""),
                )


def _latency(rows: Sequence[Row]) -> Iterator[Row]:
    graph = _named(rows, GRAPH, ONE_CLIENT)
    noop = _named(rows, NOOP, ONE_CLIENT)
    engine = _named(rows, RAW_ENGINE, ONE_AT_A_TIME)
    if graph and noop and engine:
        value = graph.figures[P50] - noop.figures[P50] - engine.figures[P50]
        name = "graph p50 - no-op p50 - vLLM's p50, 1 client, ms"
        yield Row("ratios", name, {VALUE: value, LIMIT: LATENCY_LIMIT_MS}, engine.name)
    if graph and engine:
        value = graph.figures[P50] / engine.figures[P50]
        name = "graph p50, 1 client / vLLM's p50"
        yield Row("ratios", name, {VALUE: value}, engine.name)


def _embedding(rows: Sequence[Row]) -> Iterator[Row]:
    reference = _named(rows, EMBEDDING, SENTENCE_TRANSFORMERS)
    for row in rows:
        if reference and row.group == EMBEDDING and row is not reference:
            value = row.figures[ITEMS] / reference.figures[ITEMS]
            yield Row("ratios", f"items/s: {row.name} / {reference.name}", {VALUE: value})


def _best(rows: Sequence[Row], group: str, is_first: bool) -> Row | None:
    """Return the fastest row of a group among first visits, or among the others."""
    like = [row for row in rows if row.group == group and (FIRST_VISIT in row.name) == is_first]
    return max(like, key=lambda row: row.figures[REQUESTS], default=None)


def _named(rows: Sequence[Row], group: str, part: str) -> Row | None:
    """Return the first row of a group whose name has the part."""
    return next((row for row in rows if row.group == group and part in row.name), None)
