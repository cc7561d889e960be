"""Texts -> vectors, sharded over Ray Data actors, on GPUs where there are any.

A vector is stored under the hash of its text and encoder, in Parquet shards that appear whole
or not at all. So only new or changed texts are embedded, and a killed job goes on where it was.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from heliograph.config import EmbeddingConfig, names_folder
from heliograph.workspace import InputError, digest_of, hash_file, resolve

SHARDS = "shards"
VECTORS_FILE = "vectors.safetensors"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""In order of preference, as transformers has it; a .bin is read as weights only, never as code."""

TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""One of them holds a tokenizer's words. Without any, transformers makes a tokenizer that knows no
word, and all texts get the same vector."""

LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError)
"""What transformers lets through of files that are missing, cut off or of no model it knows."""

Progress = Callable[[int], None]
"""Called with the number of texts embedded since the last call."""


class Encoder:
    """A Hugging Face encoder: mean of the last layer over a text's tokens, length 1."""

    def __init__(self, config: EmbeddingConfig, device: str) -> None:
        """Load the encoder.

        Raises:
            InputError: Its files are missing or damaged, or a hub id leads nowhere.
        """
        from transformers import (  # seconds to import; only encoders need it
            AutoModel,
            AutoTokenizer,
        )

        source = encoder_source(config.encoder)
        self.config = config
        self.device = device
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(source))
            self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
            model = AutoModel.from_pretrained(str(source), dtype=torch.float32)
        except LOADING_ERRORS as error:
            raise _unloadable(source, error) from error
        self.model = model.to(device).eval()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, those of similar length together, so that little is padding.

        Returns:
            (texts, dim) vectors of Euclidean length 1, in the order of the texts; zero for a text
            without a single token.
        """
        tokens = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_tokens)
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        vectors = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(order), self.config.batch_size):
            rows = order[start : start + self.config.batch_size]
            batch = self.tokenizer.pad(
                {"input_ids": [tokens["input_ids"][row] for row in rows]}, return_tensors="pt"
            ).to(self.device)
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return vectors


class ShardWriter:
    """The Ray Data actor: embeds one batch of texts and writes it as one shard.

    What is wrong with the encoder it says in a row: an exception inside an actor would reach the
    user as pages of traceback, after Ray has started the actor again and again.
    """

    def __init__(self, config: EmbeddingConfig, folder: Path, threads: int) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(threads)
        self.folder = folder
        self.problem: str | None = None
        try:
            self.encoder = Encoder(config, device)
        except InputError as error:
            self.problem = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        keys = batch["key"].to_pylist()
        if self.problem is None:
            vectors = self.encoder.encode(batch["text"].to_pylist())
            write_shard(self.folder, keys, vectors)
        return pa.table({"embedded": [len(keys)], "problem": pa.array([self.problem], pa.string())})


def embed(
    texts: Sequence[str], config: EmbeddingConfig, folder: Path, progress: Progress
) -> dict[str, float]:
    """Embed texts and write their vectors in the same order.

    Args:
        texts: One for each item, in order of row; equal texts are embedded once.
        config: Encoder and sizes.
        folder: Gets `shards/*.parquet` and `vectors.safetensors`, (texts, dim) float32.
        progress: Told as shards are done.

    Returns:
        Counts of texts embedded now and of those whose vectors were there already.

    Raises:
        InputError: The encoder cannot be loaded.
    """
    fingerprint = encoder_fingerprint(config)
    shards = folder / SHARDS
    shards.mkdir(parents=True, exist_ok=True)
    for unfinished in shards.glob(".*"):
        unfinished.unlink()  # of a killed run
    keys = [digest_of(fingerprint, text)[:32] for text in texts]
    known = read_shards(shards, set(keys))
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        _embed_missing(missing, config, shards, progress)
        known = read_shards(shards, set(keys))
    vectors = np.stack([known[key] for key in keys])
    save_file({"vectors": vectors}, folder / VECTORS_FILE)
    return {"embedded": len(missing), "reused": len(set(keys)) - len(missing)}


def read_vectors(folder: Path) -> NDArray[np.float32]:
    """Read the vectors that `embed` wrote, (items, dim)."""
    return load_file(folder / VECTORS_FILE)["vectors"]


def encoder_source(encoder: str) -> Path | str:
    """Find the encoder: a folder, a `package://` folder, or else a hub id.

    Raises:
        InputError: The folder is missing, or lacks a configuration, weights or a tokenizer.
    """
    is_path = "://" in encoder or names_folder(encoder) or Path(encoder).is_dir()
    if not is_path:
        return encoder
    folder = resolve(os.path.expanduser(encoder))
    if not (folder / "config.json").is_file():
        raise InputError(f"encoder {encoder}: {folder} has no config.json; pass a model folder")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise InputError(
            f"encoder {encoder}: {folder} has no weights (looked for {' or '.join(WEIGHTS)}); "
            "download the model's weights into it or name another encoder"
        )
    if not any(any(folder.glob(pattern)) for pattern in VOCABULARIES):
        raise InputError(
            f"encoder {encoder}: {folder} has no tokenizer (looked for {', '.join(VOCABULARIES)}); "
            "download the model's tokenizer into it or name another encoder"
        )
    return folder


def encoder_fingerprint(config: EmbeddingConfig) -> str:
    """Hash what decides a text's vector: the encoder's files and where texts are cut."""
    source = encoder_source(config.encoder)
    if isinstance(source, str):
        return digest_of(source, str(config.max_tokens))
    weights = next(found for pattern in WEIGHTS if (found := sorted(source.glob(pattern))))
    texts = sorted(path for pattern in TOKENIZER_FILES for path in source.glob(pattern))
    hashes = [part for path in [*weights, *texts] for part in (path.name, hash_file(path))]
    return digest_of(*hashes, str(config.max_tokens))


def write_shard(folder: Path, keys: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """Write one shard under a name made of its content; a reader never sees half of it."""
    table = pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1), pa.float32()), vectors.shape[1]
            ),
        }
    )
    name = f"{digest_of(*keys)[:16]}.parquet"
    temporary = folder / f".{name}.{os.getpid()}"
    pq.write_table(table, temporary)
    temporary.replace(folder / name)


def read_shards(folder: Path, wanted: set[str]) -> dict[str, NDArray[np.float32]]:
    """Collect the vectors of the wanted keys from all shards.

    Raises:
        InputError: A shard is damaged.
    """
    vectors: dict[str, NDArray[np.float32]] = {}
    for path in sorted(folder.glob("[!.]*.parquet")):
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{path} is damaged ({error}); delete it, and its texts are embedded again"
            ) from error
        flat = table["vector"].combine_chunks().flatten().to_numpy()
        block = flat.reshape(table.num_rows, -1)
        for row, key in enumerate(table["key"].to_pylist()):
            if key in wanted:
                vectors[key] = block[row]
    return vectors


def _unloadable(source: Path | str, error: Exception) -> InputError:
    told = str(error).partition("\n")[0]
    if isinstance(source, Path):
        cure = "download its files again, or name another encoder"
        return InputError(f"encoder {source} cannot be loaded: {told}; {cure}")
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    way = "HF_HUB_OFFLINE is set, so nothing is downloaded: unset it" if offline else "check the id"
    return InputError(
        f"encoder {source} cannot be loaded from the Hugging Face hub or its cache: {told}; {way}, "
        "or name the folder of an encoder, as in ./encoder"
    )


def _embed_missing(
    missing: dict[str, str], config: EmbeddingConfig, shards: Path, progress: Progress
) -> None:
    """Spread the texts over the actors, one block a shard.

    Texts of similar length share a shard, so that little is padding; the long ones go first, so
    that all actors end at about the same time.
    """
    order = sorted(missing, key=lambda key: len(missing[key]), reverse=True)
    table = pa.table({"key": order, "text": [missing[key] for key in order]})
    starts = range(0, len(order), config.shard_size)
    cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
    actors = min(config.actors or gpus or max(1, cpus // config.cpus_per_actor), len(starts))
    threads = max(1, min(config.cpus_per_actor, cpus // actors))
    blocks = ray.data.from_arrow([table.slice(start, config.shard_size) for start in starts])
    done = blocks.map_batches(
        ShardWriter,
        fn_constructor_args=(config, shards.resolve(), threads),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_gpus=1 if gpus else 0,
        num_cpus=None if gpus else min(threads, cpus),
    )
    results: Iterable[pa.Table] = done.iter_batches(batch_size=None, batch_format="pyarrow")
    for batch in results:
        for problem in batch["problem"].drop_null().to_pylist():
            raise InputError(problem)
        progress(int(np.sum(batch["embedded"])))
