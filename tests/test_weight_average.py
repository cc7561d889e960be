"""The moving average of the weights, and the precision that training chooses."""

from __future__ import annotations

import pytest
import torch

from heliograph.config import ItemLMConfig
from heliograph.models.item_lm import ItemLMNetwork
from heliograph.models.precision import matrix_dtype
from heliograph.models.weight_average import WeightAverage
from worlds import clustered_vectors

CPU = torch.device("cpu")


def network() -> ItemLMNetwork:
    torch.manual_seed(0)
    shape = ItemLMConfig(hidden_size=32, layers=1, heads=1, spare_tokens=4)
    return ItemLMNetwork(shape, clustered_vectors(3, 4, dim=8), dropout=0.0)


def set_weights(trained: ItemLMNetwork, value: float) -> None:
    with torch.no_grad():
        trained.norm.weight.fill_(value)


def test_the_average_moves_fast_at_first_and_by_its_decay_later() -> None:
    trained = network()
    set_weights(trained, 0.0)
    average = WeightAverage(trained, decay=0.5)
    set_weights(trained, 1.0)
    values = []
    for _ in range(9):
        average.update()
        values.append(average.network.norm.weight[0].item())
    assert values[0] == pytest.approx(9 / 11)  # keeps (1 + 1) / (1 + 10)
    assert values[1] == pytest.approx(1 - 2 / 11 * 3 / 12)
    assert (1 - values[8]) / (1 - values[7]) == pytest.approx(0.5, abs=0.01)  # not 10 / 19
    assert trained.norm.weight.tolist() == [1.0] * 32


def test_without_decay_the_average_is_the_last_weights() -> None:
    trained = network()
    average = WeightAverage(trained, decay=0.0)
    set_weights(trained, 3.0)
    average.update()
    assert torch.equal(average.network.norm.weight, trained.norm.weight)


def test_text_vectors_are_in_memory_once() -> None:
    trained = network()
    averaged = WeightAverage(trained, decay=0.9).network
    assert averaged.text_vectors is trained.text_vectors
    assert not any(parameter.requires_grad for parameter in averaged.parameters())


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("avx512_bf16", torch.bfloat16),
        ("amx_bf16", torch.bfloat16),
        ("avx2", torch.float32),
    ],
)
def test_bfloat16_is_chosen_where_the_processor_has_it(
    capability: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    assert matrix_dtype("auto", CPU) == expected
    assert matrix_dtype("float32", CPU) == torch.float32
    assert matrix_dtype("bfloat16", CPU) == torch.bfloat16
