"""A load step, and how the graph follows it: replicas, answers a second and p95 over time.

    python benchmarks/scaling.py [BUNDLE] [--clients 40] [--replicas 3]

One client asks, then many, then one again. Replicas share this machine, so they show when and
whose number changes, not what another machine would add.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from ray import serve
from ray.serve._private.common import ReplicaState

from constant_load import ConstantLoad, Seen
from heliograph.bundle import Bundle, open_bundle
from heliograph.config import DeploymentConfig, ServeConfig
from heliograph_serve.app import APP_NAME
from heliograph_serve.graph import running_graph
from heliograph_tune.charts import Line, lines
from levels import free_port
from suite import BUNDLES, HERE
from workload import users_of

DEPLOYMENTS = ("Recommend", "Retrieve", "Rank")
CALM_S, STEP_S, AFTER_S = 20.0, 60.0, 60.0
"""With one client, with many, with one again."""

TARGET_BUSY = 0.45
"""Share of its time that a replica is to be busy: less than elsewhere, since the replicas and the
clients share so few processors that no replica is ever as busy as one with its own."""

WINDOW_S = 2.0
"""Answers a second and p95 are of so long."""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A load step</title>
{% include "style.html.j2" %}<h1>A load step</h1><p>{{ told }}</p>
{% for chart in charts %}{{ chart }}{% endfor %}</html>"""


@dataclass
class Watch:
    """Notes the replicas of each deployment a few times a second."""

    counts: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look until stopped."""
        while not self.stop.wait(0.5):
            found = serve.status().applications[APP_NAME].deployments
            running = {
                name: found[name].replica_states.get(ReplicaState.RUNNING, 0)
                for name in DEPLOYMENTS
            }
            self.counts.append((time.perf_counter(), running))


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLES, metavar="BUNDLE")
    parser.add_argument("--clients", type=int, default=40, help="of the step (default: 40)")
    parser.add_argument("--replicas", type=int, default=3, help="at most (default: 3)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scaling.html")
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    measure(bundle, arguments.clients, arguments.replicas, arguments.out)


def scaling(settings: ServeConfig, replicas: int) -> ServeConfig:
    """Let every deployment scale, in seconds instead of minutes."""
    eager = DeploymentConfig(
        max_replicas=replicas, target_busy=TARGET_BUSY, upscale_delay_s=3, downscale_delay_s=15
    )
    each = {name.lower(): eager for name in DEPLOYMENTS}
    return settings.model_copy(update={"port": free_port()} | each)


def measure(bundle: Bundle, clients: int, replicas: int, out: Path) -> None:
    """Take the step; print a line for each part and write the page."""
    settings = scaling(bundle.config.serve, replicas)
    users = [user.id for user in users_of(bundle)]
    watch, one, many = (
        Watch(),
        ConstantLoad(settings.port, users, 1),
        ConstantLoad(settings.port, users, clients - 1),
    )
    with running_graph(bundle.folder, settings):
        watcher = threading.Thread(target=watch.run)
        watcher.start()
        began = time.perf_counter()
        with one.running():
            time.sleep(CALM_S)
            up = time.perf_counter()
            with many.running():
                time.sleep(STEP_S)
            down = time.perf_counter()
            time.sleep(AFTER_S)
            ended = time.perf_counter()
        watch.stop.set()
        watcher.join()
    seen = sorted([*one.seen, *many.seen], key=lambda answer: answer.received)
    for name, since, until in (
        ("one client", began, up),
        (f"{clients} clients", up, down),
        ("one again", down, ended),
    ):
        print(part(name, seen, watch, since, until))
    failed = [*one.failures, *many.failures]
    print(f"{len(seen)} answers, {len(failed)} failed")
    page(seen, watch, began, f"{clients} clients from second {CALM_S:g} on for {STEP_S:g} s", out)
    print(f"written to {out}")


def part(name: str, seen: list[Seen], watch: Watch, since: float, until: float) -> str:
    """Say what clients saw in a part of the time, and the most replicas in it."""
    inside = [answer for answer in seen if since <= answer.received < until]
    p50, p95 = np.percentile([answer.latency_ms for answer in inside], (50, 95))
    counts = [running for moment, running in watch.counts if since <= moment < until]
    most = ", ".join(f"{name} {max(one[name] for one in counts)}" for name in DEPLOYMENTS)
    last = ", ".join(f"{name} {counts[-1][name]}" for name in DEPLOYMENTS)
    rate = len(inside) / (until - since)
    return (
        f"{name:<12} {rate:7.1f}/s   p50 {p50:6.1f} ms   p95 {p95:6.1f} ms   "
        f"replicas at most: {most}; at the end: {last}"
    )


def page(seen: list[Seen], watch: Watch, began: float, told: str, out: Path) -> None:
    """Draw replicas, answers a second and p95 over time."""
    windows: dict[int, list[float]] = {}
    for answer in seen:
        windows.setdefault(int((answer.received - began) / WINDOW_S), []).append(answer.latency_ms)
    moments = {place: (place + 0.5) * WINDOW_S for place in sorted(windows)}
    rate = [(moment, len(windows[place]) / WINDOW_S) for place, moment in moments.items()]
    p95 = [(moment, float(np.percentile(windows[place], 95))) for place, moment in moments.items()]
    counted = [
        Line(name, [(moment - began, running[name]) for moment, running in watch.counts])
        for name in DEPLOYMENTS
    ]
    charts = [
        lines([one], f"replicas of {one.name} over time", "seconds", f"replicas of {one.name}")
        for one in counted
    ]
    charts.append(lines([Line("rate", rate)], "answers a second", "seconds", "answers/s"))
    charts.append(lines([Line("p95", p95)], "p95 over time", "seconds", "p95, ms"))
    pages = Environment(loader=PackageLoader("heliograph", "report"), autoescape=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(pages.from_string(PAGE).render(told=told, charts=charts), encoding="utf-8")


if __name__ == "__main__":
    main()
