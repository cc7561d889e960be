"""The item language model: a Llama decoder whose vocabulary is the catalogue.

A token's embedding is a learned projection of the item's text vector plus a learned residual,
so items with few interactions borrow from their text. Input and output embeddings are tied.
Saved as an ordinary Hugging Face folder, which transformers and vLLM load without our code.

This file knows the network and how to score with it; `item_lm_training` fits it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heliograph.config import ItemLMConfig
from heliograph.interactions import History
from heliograph.models.item_tokens import (
    BOS,
    FIRST_ITEM,
    HF_FOLDER,
    TEXT_FILE,
    prompt,
    vocabulary_size,
)

if TYPE_CHECKING:
    from transformers import LlamaConfig

ROPE_THETA = 10_000.0
NORM_EPSILON = 1e-6
MAX_BATCH_TOKENS = 16_384
"""Positions scored at once: bounds memory, large enough to keep two cores busy."""

SCORES_BYTES = 64 << 20
"""Scores of all items that are computed together."""


class Dropout(nn.Module):
    """Zeroes a share of the values in training and scales up the rest.

    On a CPU the mask is drawn here, since `F.dropout` takes 2.5 times as long over it.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some values zeroed, or x itself in evaluation mode."""
        if not self.training or self.share == 0 or x.is_cuda:
            return F.dropout(x, self.share, self.training)
        return x * (torch.rand_like(x) >= self.share) * (1 / (1 - self.share))


class Block(nn.Module):
    """One Llama layer: attention with rotary positions, then a gated feed-forward network."""

    def __init__(self, config: ItemLMConfig, dropout: float) -> None:
        super().__init__()
        d, inner = config.hidden_size, feed_forward_size(config.hidden_size)
        self.heads = config.heads
        self.input_layernorm = nn.RMSNorm(d, eps=NORM_EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(d, eps=NORM_EPSILON)
        self.self_attn = nn.ModuleDict(
            {name: nn.Linear(d, d, bias=False) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(d, inner, bias=False),
                "up_proj": nn.Linear(d, inner, bias=False),
                "down_proj": nn.Linear(inner, d, bias=False),
            }
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (batch, length, hidden) to the same shape; a position sees itself and before."""
        x = x + self.dropout(self._attend(self.input_layernorm(x), cos, sin))
        x = x + self.dropout(self._feed_forward(self.post_attention_layernorm(x)))
        return x

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, d = x.shape
        q, k, v = (
            self.self_attn[name](x).view(batch, length, self.heads, -1).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.self_attn["o_proj"](mixed.transpose(1, 2).reshape(batch, length, d))
        return out

    def _feed_forward(self, x: Tensor) -> Tensor:
        gated = F.silu(self.mlp["gate_proj"](x)) * self.mlp["up_proj"](x)
        out: Tensor = self.mlp["down_proj"](gated)
        return out


class ItemLMNetwork(nn.Module):
    """The trainable network; text vectors and residuals are still apart."""

    def __init__(
        self, config: ItemLMConfig, text_vectors: NDArray[np.float32], dropout: float
    ) -> None:
        """Start from random weights.

        Args:
            config: Shape of the model.
            text_vectors: (items, dim), one for each item, of length 1.
            dropout: On embeddings, attention outputs and feed-forward outputs.
        """
        super().__init__()
        self.config = config
        self.n_items, dim = text_vectors.shape
        vocabulary = vocabulary_size(self.n_items, config.spare_tokens)
        padded = np.zeros((vocabulary, dim), np.float32)
        padded[FIRST_ITEM : FIRST_ITEM + self.n_items] = text_vectors
        self.text_vectors: Tensor
        self.register_buffer("text_vectors", torch.from_numpy(padded), persistent=False)
        self.residual = nn.Parameter(torch.empty(vocabulary, config.hidden_size))
        self.projection = nn.Linear(dim, config.hidden_size, bias=False)
        self.layers = nn.ModuleList(Block(config, dropout) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=NORM_EPSILON)
        self.dropout = Dropout(dropout)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.residual, std=0.02)
        with torch.no_grad():  # spare tokens are silent until an item moves in
            self.residual[FIRST_ITEM + self.n_items :] = 0

    def embeddings(self, tokens: Tensor | None = None) -> Tensor:
        """Return the (tokens, hidden) embeddings of some tokens, or of the whole vocabulary."""
        rows = slice(None) if tokens is None else tokens
        from_text: Tensor = self.projection(self.text_vectors[rows])
        return self.residual[rows] + from_text

    def forward(self, tokens: Tensor, embeddings: Tensor) -> Tensor:
        """Return the (batch, length, hidden) states that predict the token after each position.

        Padding goes to the right: a position never sees what comes after it.
        """
        cos, sin = rotary_angles(
            tokens.shape[1], self.config.hidden_size // self.config.heads, tokens.device
        )
        x = self.dropout(F.embedding(tokens, embeddings))
        for layer in self.layers:
            x = layer(x, cos, sin)
        states: Tensor = self.norm(x)
        return states


class ItemLM:
    """A fitted item LM as a recommender: the log-probability of every item coming next."""

    def __init__(self, network: ItemLMNetwork, embeddings: Tensor) -> None:
        """Wrap a network in evaluation mode and its (vocabulary, hidden) token embeddings."""
        self.network = network
        self.config = network.config
        self.embeddings = embeddings

    @property
    def item_embeddings(self) -> Tensor:
        """The (items, hidden) embeddings of the items alone."""
        return self.embeddings[FIRST_ITEM : FIRST_ITEM + self.network.n_items]

    @torch.inference_mode()
    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Score all items for each history, (histories, items) log-probabilities."""
        scores = np.empty((len(histories), self.network.n_items), np.float32)
        states = self.states(histories)
        items = slice(FIRST_ITEM, FIRST_ITEM + self.network.n_items)
        for rows in row_chunks(len(histories), len(self.embeddings)):
            logits = states[rows] @ self.embeddings.T
            logits -= logits.logsumexp(dim=1, keepdim=True)
            scores[rows] = logits[:, items].cpu().numpy()
        return scores

    @torch.inference_mode()
    def states(self, histories: Sequence[History]) -> Tensor:
        """Return the (histories, hidden) states whose products with embeddings are logits.

        One after another, histories of which each begins the next are read in one go.
        """
        states = self.embeddings.new_empty(len(histories), self.config.hidden_size)
        prompts = [prompt(history, self.config.max_history) for history in histories]
        runs = beginnings(prompts)
        longest = [len(prompts[run.stop - 1]) for run in runs]
        for batch in batches_by_length(longest, MAX_BATCH_TOKENS):
            together = [runs[number] for number in batch]
            tokens = pad([prompts[run.stop - 1] for run in together])
            read = self.network(tokens.to(self.embeddings.device), self.embeddings)
            rows = [row for run in together for row in run]
            line = np.repeat(np.arange(len(together)), [len(run) for run in together])
            last = [len(prompts[row]) - 1 for row in rows]
            states[torch.tensor(rows)] = read[torch.from_numpy(line), torch.tensor(last)]
        return states

    def save(self, folder: Path) -> None:
        """Write `hf/`, which any Llama implementation loads, and the text projection beside it."""
        hf = folder / HF_FOLDER
        hf.mkdir(parents=True, exist_ok=True)
        llama_config(self.config, len(self.embeddings)).save_pretrained(hf)
        weights = {
            f"model.{name}": tensor.cpu().contiguous()
            for name, tensor in self.network.state_dict().items()
            if name.startswith(("layers.", "norm."))
        }
        weights["model.embed_tokens.weight"] = self.embeddings.cpu().contiguous()
        save_file(weights, hf / "model.safetensors", metadata={"format": "pt"})
        save_file(
            {"projection": self.network.projection.weight.detach().cpu().contiguous()},
            folder / TEXT_FILE,
        )
        shape = {"n_items": self.network.n_items, "config": self.config.model_dump()}
        (folder / "item_lm.json").write_text(json.dumps(shape, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, for scoring."""
        shape = json.loads((folder / "item_lm.json").read_text())
        weights = load_file(folder / HF_FOLDER / "model.safetensors")
        projection = load_file(folder / TEXT_FILE)["projection"]
        no_texts = np.zeros((shape["n_items"], projection.shape[1]), np.float32)
        network = ItemLMNetwork(ItemLMConfig(**shape["config"]), no_texts, dropout=0.0)
        embeddings = weights.pop("model.embed_tokens.weight")
        state = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        state |= {"residual": embeddings, "projection.weight": projection}
        network.load_state_dict(state)
        return cls(network.eval(), embeddings)


def feed_forward_size(hidden_size: int) -> int:
    """Return 8/3 of the hidden size, as Llama has it, rounded up to a multiple of 16."""
    return -(-hidden_size * 8 // 3 // 16) * 16


def llama_config(config: ItemLMConfig, vocabulary: int) -> LlamaConfig:
    """Describe the model in the words of transformers and vLLM."""
    from transformers import LlamaConfig  # takes seconds to import, and only saving needs it

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=config.hidden_size,
        intermediate_size=feed_forward_size(config.hidden_size),
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.max_history + 2,  # BOS before, one new token behind
        rms_norm_eps=NORM_EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=None,
        pad_token_id=None,
        dtype="float32",
    )


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Group rows of similar length, so that a padded group has at most `max_tokens` positions."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        is_last = end == len(order)
        if is_last or (end + 1 - start) * lengths[order[end]] > max_tokens:
            yield order[start:end]
            start = end


def beginnings(prompts: Sequence[Sequence[int]]) -> list[range]:
    """Cut the rows of prompts into runs, in each of which every prompt begins the next one.

    A position sees only what comes before it: whoever has read the last prompt of a run has read
    them all.
    """
    runs, start = [], 0
    for row, tokens in enumerate(prompts, start=1):
        if row == len(prompts) or prompts[row][: len(tokens)] != tokens:
            runs.append(range(start, row))
            start = row
    return runs


def row_chunks(rows: int, n_items: int) -> Iterator[slice]:
    """Cut rows so that the float32 scores of a chunk for so many items take `SCORES_BYTES`."""
    size = max(1, SCORES_BYTES // (4 * max(n_items, 1)))
    for start in range(0, rows, size):
        yield slice(start, start + size)


def pad(sequences: Sequence[Sequence[int]], value: int = BOS) -> Tensor:
    """Stack token lists into (sequences, longest), filled up on the right."""
    padded = np.full((len(sequences), max(map(len, sequences))), value, np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return torch.from_numpy(padded)


def rotary_angles(length: int, head_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (length, head_size) cosines and sines of the rotary position embedding."""
    frequencies = ROPE_THETA ** (-torch.arange(0, head_size, 2, device=device) / head_size)
    angles = torch.outer(torch.arange(length, device=device), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
