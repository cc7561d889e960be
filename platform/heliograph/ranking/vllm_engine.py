"""The item LM on vLLM: one prefill ranks the whole catalogue after a history.

A prompt is a history's tokens. Evidence is added inside the sampler (`evidence_sampler`), and the
most likely next tokens are the final ranking; one token is decoded and thrown away. Prefix caching
makes a returning user cheap.

Two ways to run the same engine, chosen by `serve.engine`: stepped by a thread of this process
(no hop to another process: best for small models), or `AsyncLLM` in a process of its own.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heliograph.config import ServeConfig
from heliograph.models.item_tokens import vocabulary_size
from heliograph.native_memory import bound_kernels
from heliograph.ranking.async_engine import AsyncEngine
from heliograph.ranking.engine import MAX_K, Engine
from heliograph.ranking.engine_items import with_room
from heliograph.ranking.stepped_engine import SteppedEngine
from heliograph.workspace import missing_extra


def start_engine(model: Path, n_items: int, max_history: int, serve: ServeConfig) -> Engine:
    """Load the Hugging Face folder of an item LM into vLLM.

    Args:
        model: Folder with `config.json` and `model.safetensors`.
        n_items: Items of the catalogue.
        max_history: Longest history in items.
        serve: Which way to run, memory and threads.

    Raises:
        InputError: vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise missing_extra("vllm")
    set_environment(serve)
    with with_room(model, vocabulary_size(n_items, serve.room_for_items)) as lent:
        arguments = engine_arguments(lent, n_items, max_history, serve)
        if serve.engine == "in_process":
            return SteppedEngine(arguments, serve.engine_threads)
        return AsyncEngine(arguments)


def set_environment(serve: ServeConfig) -> None:
    """Set what vLLM and torch read when they are first imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if serve.engine == "in_process" else "1"
    # the model is not compiled, but helpers of the sampler would be: two seconds of every start
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    bound_kernels()  # there is one for each number of tokens in a step
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def engine_arguments(
    model: Path, n_items: int, max_history: int, serve: ServeConfig
) -> dict[str, Any]:
    """Return vLLM's arguments; see `start_engine`."""
    import torch

    from heliograph.ranking.cpu_norms import PRIORITY  # these import vLLM
    from heliograph.ranking.engine_worker import ItemWorker
    from heliograph.ranking.evidence_sampler import N_ITEMS, EvidenceSampler

    return {
        "model": str(model),
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enforce_eager": True,  # compiling costs 20 s of start and buys nothing at this size
        "max_model_len": max_history + 2,  # BOS before, one new token behind
        "max_num_seqs": 2 * serve.max_batch_size,
        "max_num_batched_tokens": max(8192, max_history + 2),
        "kv_cache_memory_bytes": serve.kv_cache_mb << 20,
        "enable_prefix_caching": True,
        # what is left over after whole blocks is computed again; vLLM's own choice for CPUs is 128
        # tokens, which most histories do not fill, and 32 is the least that its kernels take
        "block_size": None if torch.cuda.is_available() else 32,
        "disable_log_stats": True,
        "distributed_executor_backend": "uni",
        "logits_processors": [f"{EvidenceSampler.__module__}:{EvidenceSampler.__qualname__}"],
        "logprobs_mode": "processed_logprobs",
        # more than there are tokens would kill the engine
        "max_logprobs": min(MAX_K, n_items + serve.room_for_items),
        "worker_extension_cls": f"{ItemWorker.__module__}.{ItemWorker.__qualname__}",
        "additional_config": {N_ITEMS: n_items},
        "ir_op_priority": {} if torch.cuda.is_available() else PRIORITY,
    }
