"""What stands in docs/filters.md can be copied: every example is read against a catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from heliograph.attributes import Attributes
from heliograph.config import Rules
from heliograph.filter_parser import MAX_CONDITIONS, MAX_DEPTH, MAX_TEXT, MAX_VALUES, parse_filter
from heliograph.rules import read_rules
from heliograph_serve.api import EXAMPLES, RecommendationRequest

PAGE = (Path(__file__).parent.parent / "docs" / "filters.md").read_text()
FILMS = Attributes(
    pa.table(
        {
            "item_id": ["1", "2"],
            "categories": [["Comedy"], ["Drama"]],
            "release_year": ["1995", "unknown"],
            "available_from": ["2024-01-01", None],
            "stock": [1, 0],
            "margin": [0.5, None],
            "brand": ["a", "b"],
        }
    )
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def inline() -> list[Any]:
    """Return the filters of the page's first table."""
    found = []
    for text in re.findall(r"^\| (.*?) \| ", PAGE, re.M):
        for code in re.findall(r"`(\{.*?\})`", text):
            if "..." not in code:
                found.append(json.loads(code))
    return found


@pytest.mark.parametrize("raw", [*inline(), *map(json.loads, blocks("json"))], ids=str)
def test_every_filter_of_the_page_can_be_used(raw: Any) -> None:
    parse_filter(raw, FILMS)


def test_the_request_of_the_page_is_valid() -> None:
    body = re.search(r"--json '(\{.*?\})'\n```", PAGE, re.S)
    assert body
    read_rules(RecommendationRequest.model_validate_json(body[1]), FILMS)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_api_are_valid(example: Any) -> None:
    read_rules(RecommendationRequest.model_validate(example), FILMS)


def test_the_configuration_of_the_page_is_valid() -> None:
    (text,) = blocks("yaml")
    plan = read_rules(Rules.model_validate(yaml.safe_load(text)["serve"]["rules"]), FILMS)
    assert plan.chooses and plan.raises


def test_every_rule_and_bound_is_on_the_page() -> None:
    for name in {*Rules.model_fields, "include", "exclude"} - {"filter"}:
        assert f"| `{name}` |" in PAGE
    bounds = f"{MAX_CONDITIONS} conditions, {MAX_DEPTH} levels deep, {MAX_VALUES:,} values"
    assert f"{bounds}, {MAX_TEXT:,} characters" in PAGE
