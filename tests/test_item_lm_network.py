"""The network of the item LM is a Llama like any other, and scores a history by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from heliograph.config import ItemLMConfig
from heliograph.interactions import History
from heliograph.models.item_lm import (
    Dropout,
    ItemLM,
    ItemLMNetwork,
    beginnings,
    feed_forward_size,
    pad,
)
from heliograph.models.item_tokens import BOS, FIRST_ITEM, HF_FOLDER, prompt, vocabulary_size
from small_item_lm import N_ITEMS, SMALL, history, vectors

TWO_HEADS = SMALL.model_copy(update={"hidden_size": 64, "heads": 2})
EMPTY: History = np.zeros(0, np.int32)


def untrained(config: ItemLMConfig = SMALL) -> ItemLM:
    torch.manual_seed(0)
    network = ItemLMNetwork(config, vectors(), dropout=0.0).eval()
    return ItemLM(network, network.embeddings().detach())


@pytest.mark.parametrize("config", [SMALL, TWO_HEADS])
def test_the_saved_folder_is_a_llama_with_the_same_log_probabilities(
    config: ItemLMConfig, tmp_path: Path
) -> None:
    model = untrained(config)
    with torch.no_grad():  # weights as large as training makes them, so that differences show
        for parameter in model.network.parameters():
            parameter.mul_(10 if parameter.dim() > 1 else 1)
    model = ItemLM(model.network, model.network.embeddings().detach())
    model.save(tmp_path)
    llama = LlamaForCausalLM.from_pretrained(tmp_path / HF_FOLDER)
    histories = [EMPTY, history(3), history(0, 5, 5, 2), history(*range(12))]
    for row, scores in zip(histories, model.scores(histories), strict=True):
        tokens = torch.tensor([prompt(row, SMALL.max_history)])
        with torch.inference_mode():
            logits = llama(tokens).logits[0, -1]
        expected = F.log_softmax(logits, dim=-1)[FIRST_ITEM : FIRST_ITEM + N_ITEMS]
        np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)


def test_a_model_that_was_saved_and_loaded_gives_the_same_scores(tmp_path: Path) -> None:
    model = untrained()
    model.save(tmp_path)
    loaded = ItemLM.load(tmp_path)
    histories = [EMPTY, history(1, 2, 3)]
    np.testing.assert_allclose(loaded.scores(histories), model.scores(histories), atol=1e-6)
    loaded.save(tmp_path / "again")
    for name in ("item_lm.json", "text.safetensors", "hf/model.safetensors", "hf/config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_scores_do_not_depend_on_what_shares_the_batch() -> None:
    model = untrained()
    histories = [EMPTY, history(1), history(*range(6)), history(7, 7)]
    alone = np.concatenate([model.scores([row]) for row in histories])
    np.testing.assert_allclose(model.scores(histories), alone, atol=1e-5)
    assert model.scores([]).shape == (0, N_ITEMS)


@given(
    lengths=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_histories_that_begin_each_other_are_read_at_once_and_score_as_they_do_alone(
    lengths: list[list[int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    users = [rng.integers(0, N_ITEMS, 9).astype(np.int32) for _ in lengths]
    visits = [user[:n] for user, ends in zip(users, lengths, strict=True) for n in ends]
    model = untrained()
    together = model.scores(visits)
    alone = np.concatenate([model.scores([visit]) for visit in visits])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_run_of_prompts_ends_where_one_does_not_begin_the_next() -> None:
    prompts = [[0], [0, 3], [0, 3], [0, 3, 1], [0, 3, 2], [0], [0, 2]]
    assert beginnings(prompts) == [range(4), range(4, 5), range(5, 7)]
    assert beginnings([]) == []


def test_only_the_newest_items_of_a_long_history_are_read() -> None:
    model = untrained()
    long = history(*range(12), *range(12))
    np.testing.assert_array_equal(model.scores([long]), model.scores([long[-6:]]))
    assert prompt(long, 6) == [BOS, *(FIRST_ITEM + item for item in range(6, 12))]
    assert prompt(EMPTY, 6) == [BOS]


@pytest.mark.parametrize(
    ("n_items", "spare", "size"), [(1, 0, 64), (63, 0, 64), (64, 0, 128), (60, 4, 128)]
)
def test_the_vocabulary_has_room_for_the_start_the_items_and_the_spares(
    n_items: int, spare: int, size: int
) -> None:
    assert vocabulary_size(n_items, spare) == size


def test_the_feed_forward_network_is_eight_thirds_wide() -> None:
    assert [feed_forward_size(hidden) for hidden in (6, 64, 128)] == [16, 176, 352]


def test_padding_goes_to_the_right() -> None:
    assert pad([[1], [2, 3]], value=-1).tolist() == [[1, -1], [2, 3]]


def test_dropout_keeps_the_mean_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    ones = torch.ones(200, 200)
    dropped = dropout(ones)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(dropout.eval()(ones), ones)
