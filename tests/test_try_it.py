"""The page to try the endpoint: it comes whole, runs nothing but its own script, and is shipped."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from hatchling.builders.wheel import WheelBuilder

from heliograph.config import LimitsConfig, ServeConfig
from heliograph.keys import Scope, add_key
from heliograph_serve.access import SCOPE_OF
from heliograph_serve.app import behind_door
from heliograph_serve.openapi import described
from heliograph_serve.recommend import http
from heliograph_serve.try_it import PAGE, page, policy, router

ROOT = Path(__file__).parent.parent


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.found.append((tag, dict(attrs)))


ELEMENTS = Elements(page()).found
(SCRIPT,) = re.findall("<script>(.*?)</script>", page(), re.S)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client(folder: Path, **limits: float) -> httpx.AsyncClient:
    add_key(folder / "k", "shop", [Scope.READ])
    app = FastAPI()
    app.include_router(router)
    settings = ServeConfig(keys=Path("k"), limits=LimitsConfig.model_validate(limits))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(behind_door(app, settings, folder)), base_url="http://shop"
    )


@pytest.mark.anyio
async def test_the_page_needs_no_key_and_keeps_to_the_limits(tmp_path: Path) -> None:
    browser = client(tmp_path, requests_per_s=0.1, burst=1)
    shown = await browser.get("/")
    assert shown.status_code == 200 and shown.text == page()
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert shown.headers["content-security-policy"] == policy(page())
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert (await browser.get("/")).status_code == 429


def test_the_policy_lets_the_pages_own_script_and_style_run_and_no_other() -> None:
    html = "<style>p {}</style><script>go()</script>"
    rules = dict(rule.split(" ", 1) for rule in policy(html).split("; "))
    assert rules.pop("default-src") == "'none'"
    script = base64.b64encode(hashlib.sha256(b"go()").digest()).decode()
    assert rules.pop("script-src") == f"'sha256-{script}'"
    assert rules.pop("style-src").startswith("'sha256-")
    assert rules.pop("connect-src") == "'self'" and rules.pop("img-src") == "data:"
    assert set(rules.values()) == {"'none'"}


def test_the_page_loads_nothing() -> None:
    assert "://" not in page()
    assert not [tag for tag, attributes in ELEMENTS if "src" in attributes]
    links = [attributes["href"] for tag, attributes in ELEMENTS if "href" in attributes]
    assert links == ["data:,", "docs"]


def test_no_text_of_the_data_can_become_markup() -> None:
    markup = r"HTML|document\.write|DOMParser|srcdoc|ContextualFragment"
    assert not re.search(rf"{markup}|eval\(|new Function|javascript:", SCRIPT)
    # what is set as an attribute is the label of a button, which is text too
    assert re.findall(r"setAttribute\((.*?),", SCRIPT) == ['"aria-label"']
    assert not [
        attributes
        for _, attributes in ELEMENTS
        if any(name.startswith("on") for name in attributes)
    ]


def test_a_key_is_kept_nowhere() -> None:
    assert not re.search("localStorage|sessionStorage|cookie|indexedDB", SCRIPT)


def test_every_field_has_a_label() -> None:
    labels = {attributes.get("for") for tag, attributes in ELEMENTS if tag == "label"}
    fields = {
        attributes["id"] for tag, attributes in ELEMENTS if tag in ("input", "textarea", "select")
    }
    assert fields == labels


def test_the_script_asks_for_elements_and_routes_that_there_are() -> None:
    there = {attributes["id"] for _, attributes in ELEMENTS if "id" in attributes}
    assert set(re.findall(r'field\("(\w+)"\)', SCRIPT)) <= there
    asked = set(re.findall(r"[\"`](v1/[^\"`?]+)", SCRIPT))
    routes = {re.sub(r"\{.*?\}", "*", label.split()[1]) for label in SCOPE_OF}
    assert len(asked) == 4
    assert {"/" + re.sub(r"\$\{[^/]*\}", "*", path) for path in asked} <= routes


def test_the_page_is_no_part_of_the_documented_api() -> None:
    assert "/" not in described(http)["paths"]


def test_the_wheel_has_the_page(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"heliograph_serve/{PAGE.name}").decode() == page()
