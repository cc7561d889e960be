"""The clock of one system's training, stopped while it is validated, and its dump.

Imported in environments that are not ours: numpy and the standard library only.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ranking import Score, validation_ndcg
from task import Order, Task


class Course:
    """How far one system has come: seconds of training and the NDCG@10 of every validation."""

    def __init__(self, order: Order, task: Task) -> None:
        """Begin with an empty dump; the clock stands still."""
        self.order = order
        self.task = task
        self.seconds = 0.0
        self._validated_at = 0.0
        self._since: float | None = None
        Path(order.dump).write_text("")

    def start(self) -> None:
        """Let the clock run."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def is_due(self) -> bool:
        """Tell whether an epoch that is under way should be interrupted for a validation."""
        now = self.seconds
        if self._since is not None:
            now += time.perf_counter() - self._since
        return now - self._validated_at >= self.order.check_s or now >= self.order.limit_s

    def validate(self, score: Score) -> bool:
        """Dump a validation; returns whether training is over. The clock must stand still."""
        if self._since is not None:
            raise RuntimeError("the clock runs: call stop() before validate()")
        found = validation_ndcg(self.task, score)
        self._validated_at = self.seconds
        with Path(self.order.dump).open("a") as dump:
            dump.write(json.dumps({"seconds": self.seconds, "ndcg": found}) + "\n")
        return found >= self.order.target or self.seconds >= self.order.limit_s
