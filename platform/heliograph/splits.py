"""Interactions -> training and held-out items, with an account of what was left out and why.

Nothing is dropped silently: users and items that training has not seen stay, marked as such.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from heliograph.interactions import History, Interactions


@dataclass(frozen=True)
class SplitCounts:
    """What a split leaves out, and what makes its held-out items odd."""

    users: int
    evaluated: int
    left_out: dict[str, int]
    """Reason -> users who are not evaluated; with `evaluated` they add up to `users`."""

    one_item_users: int
    """Users with a single event, evaluated or not."""

    ties: int
    """Events at the same time as the user's event before: the order of the file decides."""

    tied_users: int
    """Evaluated users of whom a tie decided what was held out."""

    unseen_users: int
    """Evaluated users without any training event."""

    unseen_items: int
    """Held-out events of items without any training event."""

    repeats: int
    """Held-out events of items already among what is known of the user: rankings leave out what
    was consumed, so nothing can find them."""

    def sentences(self) -> list[str]:
        """Say it, a line for each count that is not 0."""
        lines = [f"{self.evaluated} of {self.users} users are evaluated"]
        lines += [f"{n} users are left out: {why}" for why, n in self.left_out.items() if n]
        told = {
            "users have one event": self.one_item_users,
            "events have the time of the event before: the file's order decides": self.ties,
            "users were cut at such a tie": self.tied_users,
            "evaluated users have no training event": self.unseen_users,
            "held-out events are of items that training has not seen": self.unseen_items,
            "held-out events repeat an item: no ranking can find them": self.repeats,
        }
        return lines + [f"{count} {what}" for what, count in told.items() if count]


@dataclass(frozen=True)
class NextItems:
    """What is known of users, and the one item to be found after it."""

    histories: list[History]
    targets: NDArray[np.int32]
    """(histories,) the item that follows each history."""

    owners: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(histories,) whose each is, where one user may have several; default: nobody has."""

    def __post_init__(self) -> None:
        if len(self.owners) != len(self.targets):
            object.__setattr__(self, "owners", np.arange(len(self.targets)))

    def sample(self, users: int | None, seed: int) -> Self:
        """Pick so many users at random, in their order; everyone if there are no more, or None.

        Of a user with several histories, all are kept.
        """
        everyone = np.unique(self.owners)
        if users is None or users >= len(everyone):
            return self
        drawn = everyone[_draw(len(everyone), users, seed)]
        return self.pick(np.flatnonzero(np.isin(self.owners, drawn)))

    def pick(self, rows: NDArray[np.int64]) -> Self:
        """Keep these histories and their items."""
        return type(self)(
            [self.histories[row] for row in rows], self.targets[rows], self.owners[rows]
        )


@dataclass(frozen=True)
class LaterItems:
    """What is known of each user, and all items to be found."""

    histories: list[History]
    targets: list[History]
    """Of each user, at least one."""

    new_user: NDArray[np.bool_]
    """(users,) true for users that training has not seen."""

    new_item: NDArray[np.bool_]
    """(users,) true where training has not seen one of the targets."""

    def sample(self, users: int | None, seed: int) -> Self:
        """Pick so many users at random, in their order; everyone if there are no more, or None."""
        if users is None or users >= len(self.targets):
            return self
        return self.pick(_draw(len(self.targets), users, seed))

    def pick(self, users: NDArray[np.int64]) -> Self:
        """Keep these users."""
        return type(self)(
            [self.histories[user] for user in users],
            [self.targets[user] for user in users],
            self.new_user[users],
            self.new_item[users],
        )


HeldOutItems = NextItems | LaterItems
"""What rankings are judged by."""


@dataclass(frozen=True)
class LeaveOneOut:
    """The last item of each user is the test, the one before validation, the rest training.

    Users with fewer than three events are training only.
    """

    all: Interactions
    train: Interactions
    users: NDArray[np.int64]
    """(evaluated,) users that have a validation and a test item."""

    validation: NDArray[np.int32]
    """(evaluated,) the item to find from the training history."""

    test: NDArray[np.int32]
    """(evaluated,) the item to find from the training history and the validation item."""

    counts: SplitCounts
    """Of the test items."""

    def validation_items(self) -> NextItems:
        """Return the validation item of each user, after what came before it."""
        return NextItems([self.train.history(user) for user in self.users], self.validation)

    def train_and_validation(self) -> Interactions:
        """Return what is known before the test items."""
        return self.all.without_last(np.bincount(self.users, minlength=len(self.all.user_ids)))

    def test_items(self) -> NextItems:
        """Return the test item of each user, after what came before it."""
        histories = [
            np.append(self.train.history(user), item)
            for user, item in zip(self.users, self.validation, strict=True)
        ]
        return NextItems(histories, self.test)


@dataclass(frozen=True)
class LastItems:
    """The last item of each user apart from what came before it."""

    before: Interactions
    last: NextItems
    """Of users who have something before it."""


@dataclass(frozen=True)
class HeldOut:
    """Some events are held out of training; a user may have several."""

    train: Interactions
    """All users keep their number, also those without a training event."""

    users: NDArray[np.int64]
    """(evaluated,) users that have held-out items."""

    known: list[History]
    """What is known of each evaluated user when the list is made."""

    test: list[History]
    """The items of each evaluated user to be found, oldest first."""

    unseen_user: NDArray[np.bool_]
    """(evaluated,) true for users without a training event: the cohort of new users."""

    unseen_item: list[NDArray[np.bool_]]
    """For each item of `test`, true if it has no training event: the cohort of new items."""

    counts: SplitCounts

    def later_items(self) -> LaterItems:
        """Return what is to be found of each evaluated user."""
        some_new = np.array([flags.any() for flags in self.unseen_item], bool)
        return LaterItems(self.known, self.test, self.unseen_user, some_new)


def leave_one_out(interactions: Interactions) -> LeaveOneOut:
    """Split by holding out each user's last two items."""
    lengths = np.diff(interactions.offsets)
    evaluated = lengths >= 3
    users, ends = np.flatnonzero(evaluated), interactions.offsets[1:][evaluated]
    train = interactions.without_last(np.where(evaluated, 2, 0))
    validation, test = interactions.items[ends - 2], interactions.items[ends - 1]
    tied = ties(interactions)
    known = _pairs(
        np.concatenate([train.owners(), users]), np.concatenate([train.items, validation])
    )
    counts = SplitCounts(
        users=len(lengths),
        evaluated=len(users),
        left_out={"fewer than 3 events, which are training only": int((~evaluated).sum())},
        one_item_users=int((lengths == 1).sum()),
        ties=int(tied.sum()),
        tied_users=int((tied[ends - 2] | tied[ends - 1]).sum()),
        unseen_users=0,
        unseen_items=int((~np.isin(test, train.items)).sum()),
        repeats=int(np.isin(_pairs(users, test), known).sum()),
    )
    return LeaveOneOut(interactions, train, users, validation, test, counts)


def last_items(interactions: Interactions) -> LastItems:
    """Hold out the last item of every user who has at least two."""
    users = np.flatnonzero(np.diff(interactions.offsets) >= 2)
    before = interactions.without_last(np.bincount(users, minlength=len(interactions.user_ids)))
    targets = interactions.items[interactions.offsets[1:][users] - 1]
    return LastItems(before, NextItems([before.history(user) for user in users], targets))


def hold_out(
    interactions: Interactions,
    train: Interactions,
    known: Interactions,
    held: NDArray[np.bool_],
    left_out: dict[str, int],
    tied_users: int,
) -> HeldOut:
    """Put a split together and count what is odd about it.

    Args:
        interactions: All of them.
        train: Those that models may see, users numbered alike.
        known: Those that are known of the evaluated users, users numbered alike.
        held: (events,) true for those to be found; whoever has one is evaluated.
        left_out: Reason -> users without such an event.
        tied_users: Users of whom a tie in time decided what is held out.
    """
    test = interactions.where(held)
    lengths = np.diff(test.offsets)
    users = np.flatnonzero(lengths)
    unseen_user = np.diff(train.offsets)[users] == 0
    unseen_item = ~np.isin(test.items, train.items)
    repeats = np.isin(_pairs(test.owners(), test.items), _pairs(known.owners(), known.items))
    counts = SplitCounts(
        users=len(lengths),
        evaluated=len(users),
        left_out=left_out,
        one_item_users=int((np.diff(interactions.offsets) == 1).sum()),
        ties=int(ties(interactions).sum()),
        tied_users=tied_users,
        unseen_users=int(unseen_user.sum()),
        unseen_items=int(unseen_item.sum()),
        repeats=int(repeats.sum()),
    )
    return HeldOut(
        train=train,
        users=users,
        known=[known.history(user) for user in users],
        test=[test.history(user) for user in users],
        unseen_user=unseen_user,
        unseen_item=np.split(unseen_item, test.offsets[users][1:]) if len(users) else [],
        counts=counts,
    )


def ties(interactions: Interactions) -> NDArray[np.bool_]:
    """Return (events,) true where the user's event before is of the same time."""
    owners, times = interactions.owners(), interactions.timestamps
    tied = np.zeros(len(interactions), bool)
    tied[1:] = (owners[1:] == owners[:-1]) & (times[1:] == times[:-1])
    return tied


def check_share(share: float, what: str) -> None:
    """Refuse a share that would leave one side empty.

    Raises:
        ValueError: It is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"{share} of the {what}: a share lies between 0 and 1, both excluded")


def iso_time(time_us: int) -> str:
    """Write microseconds since 1970 as ISO 8601, whatever the year."""
    return f"{np.datetime64(time_us, 'us')}Z"


def _draw(population: int, users: int, seed: int) -> NDArray[np.int64]:
    """Draw so many places at random, ascending."""
    return np.sort(np.random.default_rng(seed).choice(population, users, replace=False))


def _pairs(users: NDArray[np.int64], items: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return one number for each pair of user and item, 32 bits of it for either."""
    return (users << 32) | items
