"""How well an item LM in training ranks held-out items; sorts nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heliograph.evaluation import NOT_FOUND, ndcg
from heliograph.interactions import History
from heliograph.models.item_lm import ItemLM, row_chunks
from heliograph.splits import NextItems


def ndcg_sum(model: ItemLM, held_out: NextItems) -> float:
    """Return the sum over users of NDCG@10 of their item among all items, seen ones masked."""
    ranks = target_ranks(model, held_out.histories, held_out.targets)
    return float(ndcg(ranks, 10).sum())


@torch.inference_mode()
def target_ranks(
    model: ItemLM, histories: Sequence[History], targets: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Rank each user's target among the items that are not in the user's history.

    The same as `evaluation.rank_of` of full rankings, by counting what scores higher: equal
    scores rank in order of item number, and a target that was seen is `NOT_FOUND`.

    Args:
        model: Scores items.
        histories: Of each user.
        targets: (users,) item numbers.

    Returns:
        (users,) ranks, 1 for the first.
    """
    ranks = np.full(len(targets), NOT_FOUND, np.int64)
    states, items = model.states(histories), model.item_embeddings
    for rows in row_chunks(len(targets), len(items)):
        # logits will do: what makes them log-probabilities is the same for all items of a user
        scores = states[rows] @ items.T
        users = np.repeat(np.arange(len(scores)), [len(history) for history in histories[rows]])
        seen = np.concatenate(histories[rows]).astype(np.int64)
        scores[torch.from_numpy(users), torch.from_numpy(seen)] = -torch.inf
        target = torch.from_numpy(targets[rows].astype(np.int64)).to(scores.device)[:, None]
        ranks[rows] = _ranks(scores, target)
    return ranks


def _ranks(scores: Tensor, target: Tensor) -> NDArray[np.int64]:
    """Rank (users, 1) targets by (users, items) scores; -inf is never ranked."""
    own = scores.gather(1, target)
    ranks = 1 + _count(scores > own)
    tied = torch.from_numpy(_count(scores == own) > 1).to(scores.device)
    before = torch.arange(scores.shape[1], device=scores.device) < target[tied]
    ranks[tied.cpu().numpy()] += _count((scores[tied] == own[tied]) & before)
    found = (own[:, 0] > -torch.inf).cpu().numpy()
    return np.where(found, ranks, NOT_FOUND)


def _count(flags: Tensor) -> NDArray[np.int64]:
    """Count what is true in each row: numpy takes a sixth of the time of torch's sum on a CPU."""
    return np.asarray(np.count_nonzero(flags.cpu().numpy(), axis=1))
