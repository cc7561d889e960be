"""Texts embedded a second: heliograph's encoder and its stage beside sentence-transformers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from figures import ITEMS, Plan, Row, tell
from heliograph.bundle import open_bundle
from heliograph.cluster import ray_cluster
from heliograph.config import EmbeddingConfig
from heliograph.embedding import Encoder, embed, encoder_source
from machine import cores
from ratios import EMBEDDING, SENTENCE_TRANSFORMERS

BATCH = 64
SAME = 0.999
"""Cosine above which two vectors of a text count as equal; padding changes rounding only."""


def measure_embedding(plan: Plan) -> list[Row]:
    """Measure all of them on the same texts with as many threads as there are cores."""
    torch.set_num_threads(cores())
    bundle = open_bundle(plan.bundle)
    texts = list(dict.fromkeys(bundle.catalogue().texts))[: plan.texts]
    config = bundle.config.embedding
    ours = Encoder(config, "cuda" if torch.cuda.is_available() else "cpu")
    reference = SentenceTransformer(str(encoder_source(config.encoder)))
    reference.max_seq_length = config.max_tokens

    def encode() -> object:
        return reference.encode(texts, batch_size=BATCH, normalize_embeddings=True)

    _require_same(ours.encode(texts[:BATCH]), np.asarray(encode())[:BATCH])  # also the warm-up
    rows = [
        _row(f"{SENTENCE_TRANSFORMERS}, batch_size={BATCH}", len(texts), _seconds(encode)),
        _row("Encoder, in process", len(texts), _seconds(lambda: ours.encode(texts))),
    ]
    return rows + _stage(texts, config)


def _stage(texts: list[str], config: EmbeddingConfig) -> list[Row]:
    """Measure the stage with and without what it costs to embed a single text."""
    with ray_cluster():
        _embed_anew(texts[:1], config)  # Ray's first job on a new cluster starts its workers
        fixed = _seconds(lambda: _embed_anew(texts[:1], config))
        took = _seconds(lambda: _embed_anew(texts, config))
    rows = [_row("embed stage over Ray Data", len(texts), took)]
    if fixed < took / 2:  # else the difference of two long times would mean nothing
        rows.append(_row("embed stage, without actor start", len(texts), took - fixed))
    return rows


def _embed_anew(texts: list[str], config: EmbeddingConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        embed(texts, config, Path(folder), lambda count: None)


def _row(name: str, count: int, took: float) -> Row:
    row = Row(EMBEDDING, name, {ITEMS: count / took})
    tell(row.group, row.name, row.figures)
    return row


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _require_same(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> None:
    cosine = float((ours * reference).sum(axis=1).min())
    if cosine < SAME:
        raise RuntimeError(
            f"heliograph and sentence-transformers give different vectors (cosine {cosine:.4f}), "
            "so their speeds cannot be compared; does the encoder pool by the mean?"
        )
