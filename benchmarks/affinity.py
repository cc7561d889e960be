"""What it buys that a user's requests go to the replica that remembers the user's prompt.

    python benchmarks/affinity.py [BUNDLE] [--replicas 2] [--rounds 4]

All users come once, then again and again, to a graph with several ranking replicas: first with
Serve's usual choice (the replica with less to do), then by lanes. Printed are the requests a second
and the share of the prompts' tokens that were still known, round by round.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from unittest import mock

import httpx

from graph import recommendation_request
from heliograph.bundle import Bundle, open_bundle
from heliograph.config import DeploymentConfig
from heliograph.load import closed_loop
from heliograph.workspace import write_json
from heliograph_serve import app
from heliograph_serve.graph import running_graph
from isolation import isolated
from levels import free_port
from machine import describe_machine
from workload import users_of

ROOT = Path(__file__).resolve().parent.parent
LESS_TO_DO = "ray.serve._private.request_router.PowerOfTwoChoicesRequestRouter"
CLIENTS = 32


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    bundles = ROOT / "examples" / "movielens" / "workspace" / "bundles"
    parser.add_argument("bundle", type=Path, nargs="?", default=bundles)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    results = ROOT / "benchmarks" / "results" / "affinity.json"
    parser.add_argument("--out", type=Path, default=results)
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    found: dict[str, object] = describe_machine()
    for name, router in (("less to do", LESS_TO_DO), ("lanes", app.BY_LANE)):
        rounds = isolated(900, visits, bundle, router, arguments.replicas, arguments.rounds)
        found[name] = rounds
        for number, figures in enumerate(rounds, start=1):
            print(f"{name:10} visit {number}: ", end="")
            print(f"{figures['requests_s']:6.0f} requests/s, {figures['known']:6.1%} known")
    write_json(arguments.out, found)


def visits(bundle: Bundle, router: str, replicas: int, rounds: int) -> list[dict[str, float]]:
    """Let every user come so many times; returns the figures of each time."""
    several = DeploymentConfig(min_replicas=replicas, max_replicas=replicas)
    settings = bundle.config.serve.model_copy(update={"port": free_port(), "rank": several})
    requests = [recommendation_request(user.id) for user in users_of(bundle)]
    with mock.patch.object(app, "BY_LANE", router), running_graph(bundle.folder, settings) as url:
        isolated(300, answered, settings.port, list(itertools.islice(requests, 2 * CLIENTS)))
        return [one_round(url, settings.port, requests) for _ in range(rounds)]


def one_round(url: str, port: int, requests: list[bytes]) -> dict[str, float]:
    """Let every user come once."""
    before = prefix_cache(url)
    seconds = isolated(300, answered, port, requests)
    after = prefix_cache(url)
    tokens = after["prompt_tokens"] - before["prompt_tokens"]
    return {
        "requests_s": len(requests) / seconds,
        "known": (after["cached_tokens"] - before["cached_tokens"]) / tokens,
    }


def prefix_cache(url: str) -> dict[str, int]:
    """Return the counts of the graph's only ingress replica."""
    counts: dict[str, int] = httpx.get(f"{url}/v1/status").json()["prefix_cache"]
    return counts


def answered(port: int, requests: list[bytes]) -> float:
    """Send every request once and look at the answers; returns the seconds that it took."""
    start = time.perf_counter()
    for answer in closed_loop(port, iter(requests), CLIENTS):
        answer.good()
    return time.perf_counter() - start


if __name__ == "__main__":  # every process that is started from here imports this file again
    main()
