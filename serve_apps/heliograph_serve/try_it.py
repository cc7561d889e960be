"""The page at `/`, on which one tries the endpoint in a browser.

It is one file that loads nothing from anywhere and asks the same routes as everybody. A policy
names the hashes of its script and its style, so a browser runs no other, whatever the data holds.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PAGE = Path(__file__).with_name("try_it.html")

router = APIRouter()


@router.get("/", include_in_schema=False)
async def try_it() -> HTMLResponse:
    """Return the page."""
    return HTMLResponse(page(), headers=_headers())


@cache
def page() -> str:
    """Return what the file holds."""
    return PAGE.read_text("utf-8")


@cache
def _headers() -> dict[str, str]:
    return {
        "content-security-policy": policy(page()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def policy(html: str) -> str:
    """Return a Content-Security-Policy under which a page runs its own script and nothing else.

    Args:
        html: With one `<script>` and one `<style>`, both without attributes.
    """
    script, style = (_hash(html, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(html: str, tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
