"""What vLLM's worker learns from us: to take up items between two steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import heliograph.ranking.cpu_norms  # noqa: F401  # the worker's process has them too
from heliograph.ranking.evidence_sampler import EvidenceSampler


class ItemWorker:
    """Mixed into vLLM's worker, in whichever process that runs."""

    def take_up_items(self: Any, tokens: bytes, embeddings: bytes, end: int, shut: bytes) -> None:
        """Write embeddings, and tell the sampler which tokens are items; see `ItemTokens`."""
        if tokens:
            model = self.get_model()
            weight = model.model.embed_tokens.weight
            rows = np.frombuffer(embeddings, np.float32).reshape(-1, weight.shape[1])
            places = torch.from_numpy(np.frombuffer(tokens, np.int64).copy())
            with torch.inference_mode():
                weight[places.to(weight.device)] = torch.from_numpy(rows.copy()).to(weight)
            # the output layer has the same weight, and on CPUs an arranged copy of it
            model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
        for processor in self.model_runner.input_batch.logitsprocs.all:
            if isinstance(processor, EvidenceSampler):
                processor.open_to(end, np.frombuffer(shut, np.int64))
