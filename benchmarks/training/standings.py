"""Dumps of validations -> who reached the target when, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Validation:
    """One line of a dump."""

    seconds: float
    """Of training so far."""

    ndcg: float


@dataclass(frozen=True)
class Standing:
    """How one system has done."""

    system: str
    validations: list[Validation]
    target: float

    @property
    def reached_s(self) -> float | None:
        """Seconds of training at the first validation that has the target; None without one."""
        times = (entry.seconds for entry in self.validations if entry.ndcg >= self.target)
        return next(times, None)

    @property
    def trained_s(self) -> float:
        """Seconds of training in all."""
        return self.validations[-1].seconds

    @property
    def best(self) -> float:
        """The highest validation NDCG@10."""
        return max(entry.ndcg for entry in self.validations)


def read_dump(path: Path) -> list[Validation]:
    """Read the validations of one system, in their order.

    Raises:
        ValueError: There is none.
    """
    lines = path.read_text().splitlines()
    if not lines:
        raise ValueError(f"{path} holds no validation; look at what the system wrote to stderr")
    return [Validation(**json.loads(line)) for line in lines]


def ratio(standing: Standing, ours: Standing) -> str:
    """Say how many times our training time a peer took, or at least took without the target."""
    if ours.reached_s is None:
        return "we did not reach it"
    if standing.reached_s is None:
        return f"> {standing.trained_s / ours.reached_s:.2f}"
    return f"{standing.reached_s / ours.reached_s:.2f}"


def table(standings: Sequence[Standing]) -> list[str]:
    """Lay out the standings, ours first, as lines of Markdown."""
    ours = standings[0]
    lines = [
        f"| | seconds to NDCG@10 {ours.target:g} | / ours | best NDCG@10 | validations |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for standing in standings:
        cells = [
            standing.system,
            _outcome(standing),
            ratio(standing, ours),
            f"{standing.best:.4f}",
            str(len(standing.validations)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _outcome(standing: Standing) -> str:
    if standing.reached_s is None:
        return f"not reached after {standing.trained_s:.1f} s (best {standing.best:.4f})"
    return f"{standing.reached_s:.1f}"
