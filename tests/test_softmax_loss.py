"""The chunked softmax is cross-entropy, and a sampled one comes to the same on average."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from heliograph.config import ItemLMConfig
from heliograph.models.item_lm import ItemLMNetwork
from heliograph.models.negatives import NegativeSampler
from heliograph.models.next_item_loss import next_item_loss
from heliograph.models.softmax_loss import LOGITS_BYTES, MAX_CHUNK, chunk_size, softmax_loss
from worlds import clustered_vectors

N_ITEMS = 50
SHAPE = ItemLMConfig(hidden_size=32, layers=1, heads=1, max_history=6, spare_tokens=4)


def cross_entropy(states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(states @ items.T, targets)


@pytest.mark.parametrize("positions", [1, MAX_CHUNK, 2 * MAX_CHUNK + 3])
def test_the_loss_and_its_gradients_are_those_of_cross_entropy(positions: int) -> None:
    torch.manual_seed(0)
    targets = torch.randint(0, 9, (positions,))
    results = []
    for loss_of in (softmax_loss, cross_entropy):
        torch.manual_seed(1)
        states = (10 * torch.randn(positions, 4)).requires_grad_()
        items = torch.randn(9, 4, requires_grad=True)
        loss = loss_of(states, items, targets)
        (3 * loss).backward()  # type: ignore[no-untyped-call]
        results.append((loss, states.grad, items.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_products_in_bfloat16_change_the_loss_by_less_than_a_hundredth() -> None:
    torch.manual_seed(0)
    states = torch.randn(100, 32, requires_grad=True)
    items = torch.randn(N_ITEMS, 32, requires_grad=True)
    targets = torch.randint(0, N_ITEMS, (100,))
    exact = softmax_loss(states, items, targets)
    rounded = softmax_loss(states, items, targets, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert 0 < abs(rounded.item() - exact.item()) < 0.01 * exact.item()
    for ours, theirs in zip(
        torch.autograd.grad(rounded, [states, items]),
        torch.autograd.grad(exact, [states, items]),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


def test_an_item_of_no_weight_counts_only_where_it_is_the_target() -> None:
    states, items = torch.zeros(2, 4), torch.zeros(3, 4)
    log_weights = torch.tensor([0.0, -torch.inf, np.log(2)])
    first = softmax_loss(states[:1], items, torch.tensor([0]), log_weights=log_weights)
    second = softmax_loss(states[:1], items, torch.tensor([1]), log_weights=log_weights)
    assert first.item() == pytest.approx(np.log(1 + 2))  # item 1 is not there
    assert second.item() == pytest.approx(np.log(1 + 1 + 2))


@pytest.mark.parametrize("n_items", [1, 12_000, 1_000_000, 10**9])
def test_the_logits_of_a_chunk_are_bounded(n_items: int) -> None:
    size = chunk_size(n_items)
    assert 1 <= size <= MAX_CHUNK
    assert size == 1 or 4 * size * n_items <= LOGITS_BYTES


# negatives


def test_every_target_is_a_candidate_and_every_candidate_is_there_once() -> None:
    sampler = NegativeSampler(np.ones(N_ITEMS, np.int64), negatives=5)
    targets = np.array([7, 7, 49, 0])
    drawn = sampler.draw(targets, np.random.default_rng(0))
    assert drawn.items[drawn.targets].tolist() == targets.tolist()
    assert np.unique(drawn.items).tolist() == drawn.items.tolist()
    assert np.isfinite(drawn.log_weights).sum() <= 5


def test_items_are_drawn_as_often_as_their_smoothed_popularity_says() -> None:
    counts = np.array([0, 15, 80])  # (count + 1) ** 0.75 is 1, 8 and 27
    sampler = NegativeSampler(counts, negatives=36_000)
    drawn = sampler.draw(np.array([0]), np.random.default_rng(0))
    times = np.exp(drawn.log_weights) * [1000, 8000, 27_000]
    np.testing.assert_allclose(times, [1000, 8000, 27_000], rtol=0.1)
    assert times.sum() == pytest.approx(36_000)


def test_with_many_negatives_loss_and_gradient_are_those_of_the_whole_catalogue() -> None:
    torch.manual_seed(0)
    network = ItemLMNetwork(SHAPE, clustered_vectors(5, 10, dim=8), dropout=0.0)
    with torch.no_grad():
        network.residual.mul_(30)  # far from uniform
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, N_ITEMS, 6).astype(np.int32) for _ in range(20)]
    sampler = NegativeSampler(rng.integers(0, 100, N_ITEMS), negatives=200_000)
    parameters = list(network.parameters())
    exact = next_item_loss(network, sequences)
    sampled = next_item_loss(network, sequences, sampler=sampler, rng=rng)
    assert sampled.item() == pytest.approx(exact.item(), rel=1e-2)
    for ours, theirs in zip(
        torch.autograd.grad(sampled, parameters),
        torch.autograd.grad(exact, parameters),
        strict=True,
    ):
        assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


def test_the_sum_under_the_logarithm_is_that_of_the_whole_catalogue_on_average() -> None:
    torch.manual_seed(0)
    state, items, target = torch.randn(1, 4), torch.randn(N_ITEMS, 4), torch.tensor([3])
    sampler = NegativeSampler(np.arange(N_ITEMS), negatives=10)
    rng = np.random.default_rng(0)
    sums = []
    for _ in range(2000):
        drawn = sampler.draw(target.numpy(), rng)
        loss = softmax_loss(
            state,
            items[torch.from_numpy(drawn.items)],
            torch.from_numpy(drawn.targets),
            log_weights=torch.from_numpy(drawn.log_weights),
        )
        sums.append(loss.exp().item())
    exact = softmax_loss(state, items, target).exp().item()
    assert np.mean(sums) == pytest.approx(exact, rel=0.05)


# memory


def gigabytes_at_most() -> float:
    """Return the most memory this process ever held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@pytest.mark.cluster
def test_steps_over_a_million_items_stay_under_8_gib() -> None:
    items, rng = 1_000_000, np.random.default_rng(0)
    vectors = np.full((items, 64), 0.125, np.float32)
    network = ItemLMNetwork(ItemLMConfig(layers=1, hidden_size=64), vectors, dropout=0.1)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    sampled = NegativeSampler(np.ones(items, np.int64), negatives=8192)
    assert chunk_size(items) < 2 * 40  # the logits of the second batch come in two chunks
    for batch, sampler in [((64, 64), sampled), ((2, 40), None)]:
        optimizer.zero_grad()
        sequences = list(rng.integers(0, items, batch).astype(np.int32))
        next_item_loss(network, sequences, sampler=sampler, rng=rng).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert gigabytes_at_most() < 8
