"""Two bundles side by side: who gets which, by a hash of the user.

Knows neither bundles nor requests. Whoever knows the experiment knows the arm of every user, so
replicas agree without a word and no table of users is kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Arm = Literal["control", "treatment"]

EXPERIMENT_NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
_PLACES = 2**53
"""Fractions of these are exact as floating-point numbers, so none is rounded to 1."""


@dataclass(frozen=True)
class Assignment:
    """Where a user belongs in an experiment."""

    arm: Arm
    propensity: float
    """Probability of this arm, over users."""


@dataclass(frozen=True)
class Experiment:
    """A share of the users gets another bundle than the served one."""

    name: str
    """Also what users are divided by: under one name every user stays in one arm, and another name
    divides them anew, independently of the first."""

    treatment: str
    """Identifier of the other bundle."""

    share: float
    """Of users who get it, in (0, 1)."""

    def assign(self, user: str) -> Assignment:
        """Return the arm of a user, named as the event store names users.

        Hash and partition: Kohavi, Longbotham, Sommerfield, Henne: Controlled experiments on the
        web: survey and practical guide, Data Mining and Knowledge Discovery 18, 2009, section 4.1.
        """
        if place(self.name, user) < self.share:
            return Assignment("treatment", self.share)
        return Assignment("control", 1 - self.share)


def place(experiment: str, user: str) -> float:
    """Return where a user stands in [0, 1), evenly spread over users."""
    text = f"{experiment}\x1f{user}".encode()  # a name does not hold the separator
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return (int.from_bytes(digest, "big") % _PLACES) / _PLACES
