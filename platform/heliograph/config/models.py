"""The models that propose and rank, and how the item LM is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from heliograph.config.base import Config

SourceName = Literal["popularity", "transitions", "als", "text"]
"""The models that propose candidates. The item LM ranks what they propose."""

SOURCE_NAMES: tuple[SourceName, ...] = ("popularity", "transitions", "als", "text")

Proposer = Literal["popularity", "transitions", "als", "text", "item_lm"]
"""Who can bring an item into an answer."""

HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Sizes of an attention head that vLLM runs on CPUs and GPUs alike."""


def _is_none(value: object) -> bool:
    return value is None


def _is_empty(values: tuple[object, ...]) -> bool:
    return not values


class PopularityConfig(Config):
    """Most interactions first."""

    half_life_days: float | None = Field(default=None, gt=0)
    """An interaction this much older than the newest one counts half; null: all count the same."""


class TransitionsConfig(Config):
    """What follows what in users' histories, after PCTM (RecSys 2026)."""

    window: int = Field(default=10, ge=1)
    """An item counts as following the `window` items before it, weighted 1 / sqrt(distance)."""

    decay: float = Field(default=0.6, gt=0, lt=1)
    """Weight of the j-th newest item of a history is `decay ** j`."""

    smoothing: float = Field(default=1000.0, gt=0)
    """tau in log(1 + count * items / tau): larger values trust rare transitions less."""

    popularity_exponent: float = -0.04
    """beta: below zero, popular items are held back a little."""

    neighbours: int = Field(default=1000, ge=1)
    """Followers kept for each item."""


class AlsConfig(Config):
    """Implicit matrix factorisation by alternating least squares (Hu, Koren, Volinsky 2008)."""

    factors: int = Field(default=64, ge=1)
    regularization: float = Field(default=0.05, ge=0)
    confidence: float = Field(default=2.0, gt=0)
    """alpha: an interaction weighs this much against 1 for its absence."""

    iterations: int = Field(default=15, ge=1)


class RatingsConfig(Config):
    """Prediction of explicit ratings, events' values, by biases and an inner product."""

    factors: int = Field(default=16, ge=0)
    regularization: float = Field(default=0.1, gt=0)
    """Penalty of a squared coefficient, for each rating that it explains."""

    iterations: int = Field(default=12, ge=1)


class TextConfig(Config):
    """Mean of the text vectors of a history, newest items first."""

    half_life: float = Field(default=2.0, gt=0)
    """Items after which the weight in the mean has halved."""


class ItemLMConfig(Config):
    """Shape of the item language model: a Llama decoder whose vocabulary is the catalogue."""

    hidden_size: int = Field(default=64, ge=8)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    max_history: int = Field(default=200, ge=1)
    """Items of a history that the model reads, newest last."""

    spare_tokens: int = Field(default=64, ge=0)
    """Rows at the end of the vocabulary, free for items that arrive after training."""

    @model_validator(mode="after")
    def _heads_fit_the_engine(self) -> Self:
        size, rest = divmod(self.hidden_size, self.heads)
        if rest or size not in HEAD_SIZES:
            raise ValueError(
                f"hidden_size {self.hidden_size} over {self.heads} heads gives heads of "
                f"{self.hidden_size / self.heads:g}, but the ranking engine runs heads of "
                f"{', '.join(map(str, HEAD_SIZES))}"
            )
        return self


class ModelsConfig(Config):
    """One entry a model; what is compared in the evaluation is every one of them.

    `ratings` predicts values and recommends nothing.
    """

    popularity: PopularityConfig = PopularityConfig()
    transitions: TransitionsConfig = TransitionsConfig()
    als: AlsConfig = AlsConfig()
    text: TextConfig = TextConfig()
    ratings: RatingsConfig = RatingsConfig()
    item_lm: ItemLMConfig = ItemLMConfig()


LearningRate = Annotated[float, Field(gt=0)]
WeightDecay = Annotated[float, Field(ge=0)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class TrainChange(Config):
    """Other values of settings of training, from an epoch on; what is null stays as it was."""

    epoch: int = Field(ge=2)
    """Epochs are numbered from 1; what holds in the first is said by the settings themselves."""

    lr: LearningRate | None = Field(default=None, exclude_if=_is_none)
    weight_decay: WeightDecay | None = Field(default=None, exclude_if=_is_none)
    dropout: Dropout | None = Field(default=None, exclude_if=_is_none)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not any(getattr(self, name) is not None for name in SCHEDULED):
            raise ValueError(
                f"epoch {self.epoch} changes nothing; name a value of {', '.join(SCHEDULED)}"
            )
        return self


SCHEDULED = tuple(name for name in TrainChange.model_fields if name != "epoch")
"""Settings of training that may change in its course: the model has the same shape throughout."""


class TrainConfig(Config):
    """How the item LM is trained."""

    lr: LearningRate = 1e-3
    weight_decay: WeightDecay = 0.01
    dropout: Dropout = 0.3
    schedule: tuple[TrainChange, ...] = Field(default=(), exclude_if=_is_empty)
    """Such as `[{epoch: 11, lr: 3e-4}]`; written down only where there is one."""

    epochs: int = Field(default=60, ge=1)
    """At most; training stops earlier when validation stops improving."""

    patience: int = Field(default=8, ge=1)
    """Epochs without a better validation NDCG@10 after which training stops."""

    max_minutes: float | None = Field(default=4.0, gt=0)
    """No epoch begins after this wall time; null: epochs and patience alone decide."""

    tokens_per_batch: int = Field(default=4096, ge=64)
    """Items in one optimiser step; histories of similar length share a batch."""

    shuffle_ties: bool = False
    """Whether what a user did at one and the same time is learned in another order in every epoch:
    for times that are too coarse to order it. False: the order of the events' file counts."""

    averaging: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average of the weights, which is the model; 0: the last weights are."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products in training; auto: bfloat16 where the hardware has it. Weights, sums and
    validation are float32 anyway."""

    negatives: int | None = Field(default=None, ge=1)
    """Items drawn for each optimiser step that its targets compete with; null: the catalogue."""

    validation_users: int = Field(default=5000, ge=1)
    """Users whose validation item is ranked after each epoch, at most: a seeded sample."""

    workers: int = Field(default=1, ge=1)
    """Processes that share each step, on Ray; with several, one a GPU where there are any."""

    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("schedule")
    @classmethod
    def _epochs_ascend(cls, schedule: tuple[TrainChange, ...]) -> tuple[TrainChange, ...]:
        epochs = [change.epoch for change in schedule]
        if sorted(set(epochs)) != epochs:
            raise ValueError(f"epochs must ascend, none twice, got {epochs}")
        return schedule
