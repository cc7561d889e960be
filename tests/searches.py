"""Small searches for the tests: of a configuration whose data need not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from heliograph_tune.records import Asked, Finished, Step
from heliograph_tune.search_file import Search, load_search, parse_search

ALS_SPACE: dict[str, Any] = {
    "models.als.factors": {"type": "integer", "low": 4, "high": 64, "log": True},
    "models.als.regularization": {"type": "log_uniform", "low": 1e-3, "high": 1},
}


def write_config(folder: Path) -> Path:
    """Write a configuration of data that nobody reads; returns its path."""
    path = folder / "shop.yaml"
    content = {
        "name": "shop",
        "workspace": "workspace",
        "items": {"path": "items.csv", "format": "csv"},
        "events": {"path": "events.csv", "format": "csv"},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def search_content(config: Path, **changes: Any) -> dict[str, Any]:
    """Return the content of a search file over ALS, with some keys changed."""
    content = {
        "name": "als",
        "config": str(config),
        "search": "als",
        "space": ALS_SPACE,
        "budget": {"trials": 12},
    }
    return content | changes


def make_search(folder: Path, **changes: Any) -> Search:
    """Return a checked search over a configuration that is written into a folder."""
    return parse_search(search_content(write_config(folder), **changes), "search.yaml")


def write_search(path: Path, content: dict[str, Any]) -> Search:
    """Write a search file and load it."""
    path.write_text(yaml.safe_dump(content))
    return load_search(path)


def ended(asked: Asked, score: float, **changes: Any) -> Finished:
    """Return the end of a trial with such an NDCG@10."""
    end = Finished(
        number=asked.number,
        state="done",
        metrics={"ndcg@10": score, "seconds": 1.0},
        version="test",
        ended="2026-01-01T00:00:00+00:00",
        spent_s=float(asked.number),
    )
    return end.model_copy(update=changes)


def steps(*scores: float) -> tuple[Step, ...]:
    """Return the steps of a trial that reported these scores."""
    return tuple(
        Step(step=place, values={"ndcg@10": score, "best": max(scores[:place]), "loss": 1.0})
        for place, score in enumerate(scores, start=1)
    )
