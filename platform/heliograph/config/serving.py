"""The online graph: what it takes, lets in and answers by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from heliograph.config.base import Config


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

    batch_wait_ms: float = Field(default=0.0, ge=0, le=1000)
    """How long requests that are fewer wait for others, before retrieval and again before ranking.
    0: not at all; they travel with all that came while the last batch was away."""

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
