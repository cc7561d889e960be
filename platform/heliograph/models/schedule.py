"""Settings of training that change in its course."""

from __future__ import annotations

from heliograph.config import SCHEDULED, TrainConfig


def settings_in(train: TrainConfig, epoch: int) -> TrainConfig:
    """Return the settings that hold in an epoch, counted from 1."""
    values: dict[str, float] = {}
    for change in train.schedule:
        if change.epoch <= epoch:
            given = {name: getattr(change, name) for name in SCHEDULED}
            values |= {name: value for name, value in given.items() if value is not None}
    return train.model_copy(update=values)
