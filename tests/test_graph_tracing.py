"""A traced request leaves spans of every deployment that it passed, in one trace."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve._private.logging_utils import get_serve_logs_dir

from heliograph.bundle import Bundle
from heliograph_serve.graph import running_graph
from processes import free_port
from small_shop import item_id

pytestmark = pytest.mark.cluster


def spans() -> list[dict[str, Any]]:
    found = []
    for file in (Path(get_serve_logs_dir()) / "spans").glob("*"):
        text = file.read_text()
        found += [
            json.loads(one) for one in re.findall(r"^\{.*?^\}", text, re.DOTALL | re.MULTILINE)
        ]
    return found


def test_one_trace_spans_the_deployments(bundle: Bundle) -> None:
    traced = bundle.config.serve.model_copy(
        update={"port": free_port(), "deadline_ms": 5000.0, "trace_share": 1.0}
    )
    with running_graph(bundle.folder, traced) as url:
        asked = {"history": [item_id(1), item_id(2)], "n": 3}
        reply = httpx.post(f"{url}/v1/recommendations", json=asked, timeout=30)
        assert reply.json()["tier"] == "generative"
        give_up = time.monotonic() + 20
        while not (together := deployments_of_traces()) and time.monotonic() < give_up:
            time.sleep(0.2)
    assert together


def deployments_of_traces() -> bool:
    named: defaultdict[str, set[str]] = defaultdict(set)
    for span in spans():
        text = json.dumps(span["attributes"]) + span["name"]
        named[span["context"]["trace_id"]] |= {
            name for name in ("Recommend", "Retrieve", "Rank") if name in text
        }
    return {"Recommend", "Retrieve", "Rank"} in named.values()
