"""vLLM as it comes: `LLMEngine` by its public interface, with what it chooses by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from heliograph.config import ServeConfig
from heliograph.models.item_tokens import vocabulary_size
from heliograph.ranking.async_engine import best_in
from heliograph.ranking.engine import Best, Query
from heliograph.ranking.engine_items import with_room
from heliograph.ranking.vllm_engine import engine_arguments, set_environment


class RawEngine:
    """Steps vLLM in the thread that asks."""

    def __init__(self, model: Path, n_items: int, max_history: int, serve: ServeConfig) -> None:
        """See `heliograph.ranking.vllm_engine.start_engine`."""
        set_environment(serve)
        import torch
        from vllm import EngineArgs, LLMEngine

        torch.set_num_threads(serve.engine_threads)
        with with_room(model, vocabulary_size(n_items, serve.room_for_items)) as lent:
            arguments = engine_arguments(lent, n_items, max_history, serve)
            for chosen in ("block_size", "ir_op_priority"):
                del arguments[chosen]
            self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))

    def rank(self, queries: Sequence[Query]) -> list[Best]:
        """Return the best next tokens of each query."""
        from vllm.inputs import tokens_input

        from heliograph.ranking.evidence_sampler import sampling

        for place, query in enumerate(queries):
            prompt = tokens_input(prompt_token_ids=query.prompt)
            self._engine.add_request(str(place), prompt, sampling(query))
        found: dict[int, Best] = {}
        while len(found) < len(queries):
            for output in self._engine.step():
                if output.finished:
                    place = int(output.request_id)
                    found[place] = best_in(output, queries[place].k)
        return [found[place] for place in range(len(queries))]
