"""Two bundles of one shop on a running graph: who asks meanwhile, and what replicas say of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from graphs import Answer
from heliograph.bundle import CONFIG_FILE, MANIFEST, Bundle, open_bundle, write_bundle
from heliograph_serve.graph import wait_until_ready
from processes import alive, replicas
from small_shop import ITEMS, STEPS, item_id

N = 5
"""Items that clients ask for."""

ENOUGH = 40
"""Answers that are waited for between two steps of a deployment."""


def variant(bundle: Bundle, replaced: dict[str, Path] | None = None, **settings: Any) -> Bundle:
    """Write a bundle once more beside it, with other files or settings."""
    names = set(bundle.files) - {CONFIG_FILE, MANIFEST}
    parts = {name: bundle.folder / name for name in names} | (replaced or {})
    config = bundle.config.model_copy(update=settings)
    return open_bundle(write_bundle(parts, config, bundle.folder.parent))


@dataclass
class Clients:
    """Ask without a pause and check every answer against the bundle that it names."""

    url: str
    titles: dict[str, dict[str, str]]
    """Bundle -> item -> title."""

    answers: Counter[str] = field(default_factory=Counter)
    """By bundle."""

    faults: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.threads = [threading.Thread(target=self._ask, args=(first,)) for first in range(3)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, bundle: Bundle) -> None:
        """Return when there are some more answers of a bundle."""
        enough, give_up = self.answers[bundle.id] + ENOUGH, time.monotonic() + 60
        while self.answers[bundle.id] < enough and time.monotonic() < give_up:
            time.sleep(0.01)

    def _ask(self, user: int) -> None:
        with httpx.Client(timeout=30) as http:
            while not self.stop.is_set():
                user = (user + 7) % ITEMS
                body = {"user_id": f"user-{user}", "n": N, "deadline_ms": 10_000}
                try:
                    reply = http.post(f"{self.url}/v1/recommendations", json=body)
                    self._check(user, reply)
                except (httpx.HTTPError, AssertionError) as error:
                    self.faults.append(repr(error))

    def _check(self, user: int, reply: httpx.Response) -> None:
        assert reply.status_code == 200, reply.text
        answer = reply.json()
        titles = self.titles[answer["bundle"]]
        assert answer["tier"] == "generative", answer
        assert len(answer["items"]) == N, answer
        assert answer["items"][0]["item_id"] == item_id(user + STEPS), answer
        assert all(titles[item["item_id"]] == item["title"] for item in answer["items"]), answer
        self.answers[answer["bundle"]] += 1


def titles_of(*bundles: Bundle) -> dict[str, dict[str, str]]:
    catalogues = {bundle.id: bundle.catalogue() for bundle in bundles}
    return {
        name: dict(zip(catalogue.ids, catalogue.titles, strict=True))
        for name, catalogue in catalogues.items()
    }


def post(url: str, path: str, body: Answer | None = None) -> tuple[int, Answer]:
    reply = httpx.post(f"{url}/v1/admin/{path}", json=body, timeout=30)
    return reply.status_code, reply.json()


def deployments(url: str) -> Answer:
    reply = httpx.get(f"{url}/v1/admin/deployments", timeout=30)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def end_of(url: str, begun: tuple[int, Answer]) -> Answer:
    """Wait for the end of a deployment; returns what is said of it."""
    status, progress = begun
    assert status == 202, progress
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        told: Answer = deployments(url)["progress"]
        assert told["id"] == progress["id"]
        if told["step"] in ("done", "failed"):
            return told
        time.sleep(0.1)
    raise AssertionError(f"not over after 120 s: {told}")


def replicas_of(url: str) -> Counter[str] | None:
    """Count the replicas of each deployment; None: not all of them answer."""
    reply = httpx.get(f"{url}/v1/admin/deployments", timeout=30)
    if reply.status_code != 200:
        return None
    return Counter(one["deployment"] for one in reply.json()["replicas"])


def replace_replicas(url: str, *kinds: str) -> None:
    """Kill all replicas of some deployments; returns when there are as many again."""
    before = replicas_of(url)
    for process in [process for kind in kinds for process in replicas(kind)]:
        os.kill(process.pid, signal.SIGKILL)
        assert not alive([process])
    wait_until_ready(url)
    give_up = time.monotonic() + 180
    while (there := replicas_of(url)) != before:
        assert time.monotonic() < give_up, f"{there} are back of {before}"
        time.sleep(0.2)
