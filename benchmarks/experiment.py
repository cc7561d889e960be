"""What an experiment costs requests under constant load, and how many exposures reach the store.

    python benchmarks/experiment.py BUNDLE_A BUNDLE_B [--clients 8]

Both bundles lie in one folder. Clients ask without a pause; after a while half of the users are
answered from B, then everybody from A again.
"""

from __future__ import annotations

import time
import uuid

from constant_load import ConstantLoad
from deploy import CALM_S, line, measure_two, wait
from heliograph.bundle import Bundle
from heliograph.client import start_experiment, status, stop_experiment
from heliograph_serve.graph import running_graph
from levels import free_port
from workload import users_of


def main() -> None:
    """Measure and print."""
    measure_two(__doc__, measure)


def measure(control: Bundle, treatment: Bundle, clients: int) -> None:
    """Serve one bundle, try the other on half of the users, stop; print what clients saw."""
    settings = control.config.serve.model_copy(update={"port": free_port()})
    with running_graph(control.folder, settings) as url:
        load = ConstantLoad(settings.port, [user.id for user in users_of(control)], clients)
        marks = []
        with load.running():
            time.sleep(CALM_S)  # candidates and prefixes are remembered by then
            marks.append(time.perf_counter())
            time.sleep(CALM_S)
            marks.append(time.perf_counter())
            start_experiment(url, f"benchmark-{uuid.uuid4().hex[:8]}", treatment.id, 0.5)
            wait(url)
            time.sleep(CALM_S / 2)
            marks.append(time.perf_counter())
            time.sleep(CALM_S)
            marks.append(time.perf_counter())
            stop_experiment(url)
            wait(url)
            marks.append(time.perf_counter())
            time.sleep(CALM_S)
            marks.append(time.perf_counter())
        exposures = status(url)["exposures"]
    for name, place in (("before", 0), ("experiment", 2), ("after", 4)):
        print(line(name, load.seen, *marks[place : place + 2]))
    tiers = sorted({seen.tier for seen in load.seen})
    print(f"{len(load.seen)} answers, tiers {', '.join(tiers)}; {len(load.failures)} failed")
    print(f"exposures: {', '.join(f'{count} {what}' for what, count in exposures.items())}")


if __name__ == "__main__":
    main()
