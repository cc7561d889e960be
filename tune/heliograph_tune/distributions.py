"""What a search may draw for one setting."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, model_validator

from heliograph.config import Config

Drawn = int | float
"""What Optuna knows of a value: a number, or the place of a choice."""


class _Distribution(Config):
    where: dict[str, tuple[Any, ...]] = {}
    """Other searched paths -> values: drawn only where each of them has one of its values."""


class Choice(_Distribution):
    """One of some values; of a section the values are mappings of settings that go together."""

    type: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _none_twice(self) -> Self:
        twice = [value for place, value in enumerate(self.values) if value in self.values[:place]]
        if twice:
            raise ValueError(f"{twice[0]!r} is among the values twice")
        return self


class _Range(_Distribution):
    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        low, high = (getattr(self, bound) for bound in ("low", "high"))
        if low >= high:
            raise ValueError(f"low is {low:g} and high is {high:g}; low must be the smaller one")
        if isinstance(low, float) and not math.isfinite(high - low):
            raise ValueError(f"from {low:g} to {high:g} is no finite distance; narrow it")
        return self


class Uniform(_Range):
    """Any number between two, all alike."""

    type: Literal["uniform"]
    low: float
    high: float


class LogUniform(_Range):
    """Any number between two, every order of magnitude alike."""

    type: Literal["log_uniform"]
    low: float = Field(gt=0)
    high: float = Field(gt=0)


class Integer(_Range):
    """A whole number between two, both included."""

    type: Literal["integer"]
    low: int
    high: int
    log: bool = False
    """Every order of magnitude alike; needs low >= 1."""

    @model_validator(mode="after")
    def _logarithms_are_finite(self) -> Self:
        if self.log and self.low < 1:
            raise ValueError(f"log: true needs low of 1 or more, got {self.low}")
        return self


Distribution = Annotated[Choice | Uniform | LogUniform | Integer, Field(discriminator="type")]


def draw(trial: Trial, path: str, distribution: Distribution) -> Any:
    """Let a study draw a value."""
    match distribution:
        case Choice(values=values):
            return values[trial.suggest_categorical(path, range(len(values)))]
        case Integer(low=low, high=high, log=log):
            return trial.suggest_int(path, low, high, log=log)
        case Uniform(low=low, high=high):
            return trial.suggest_float(path, low, high)
        case LogUniform(low=low, high=high):
            return trial.suggest_float(path, low, high, log=True)


def for_optuna(distribution: Distribution) -> BaseDistribution:
    """Say a distribution in Optuna's words."""
    match distribution:
        case Choice(values=values):
            return CategoricalDistribution(range(len(values)))
        case Integer(low=low, high=high, log=log):
            return IntDistribution(low, high, log=log)
        case Uniform(low=low, high=high):
            return FloatDistribution(low, high)
        case LogUniform(low=low, high=high):
            return FloatDistribution(low, high, log=True)


def drawn_for(distribution: Distribution, value: Any) -> Drawn | None:
    """Return what would have been drawn for a value; None where it could not have been."""
    if isinstance(distribution, Choice):
        return distribution.values.index(value) if value in distribution.values else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(distribution, Integer) and value != int(value):
        return None
    return value if distribution.low <= value <= distribution.high else None
