"""What the graph is to reach beside vLLM as it comes, by turns of a few seconds.

    python benchmarks/reach.py [BUNDLE] [--rounds 10] [--seconds 3]

A machine that others use too is faster in one minute than in the next, by more than there is to
show. So vLLM and the graph are both loaded and work in turn; the graph is halted while vLLM works,
and vLLM waits while the graph does. Both are asked about the same users, who have all come before.
A round gives one ratio and one difference; their medians count.

A virtual machine need not have the processors that it shows. Each round says what two loops that do
nothing else get of twice the speed of one: the graph needs several at once more than vLLM does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median

from engine import AT_ONCE, calls_of
from figures import P50, Plan, Run, percentiles, timed
from graph import CLIENTS, recommendation_request
from heliograph.bundle import open_bundle
from heliograph.ranking.engine import Query
from heliograph.workspace import write_json
from heliograph_serve.graph import running_graph
from isolation import halted, isolated
from levels import AROUND_RUN_S, WARM_UP, free_port
from load import Load, run_load
from machine import cores, describe_machine
from noop import measure_noop
from ratios import LATENCY_LIMIT_MS, ONE_CLIENT, THROUGHPUT_TARGET
from raw_engine import RawEngine
from suite import BUNDLES, HERE, START_S, positive
from workload import ITEMS, queries_of, users_of

LOOP_S = 0.5
"""Of a loop that tells how fast the machine is at that moment."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLES, metavar="BUNDLE")
    parser.add_argument("--rounds", type=positive, default=10, help="default: 10")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (default: 3)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "reach.json")
    arguments = parser.parse_args()
    found = measure(Plan(arguments.bundle, arguments.seconds, None), arguments.rounds)
    found = describe_machine() | found
    print(json.dumps(found, indent=1))
    write_json(arguments.out, found)


def measure(plan: Plan, rounds: int) -> dict[str, object]:
    """Return the figures of all rounds, and the two that count."""
    noop = isolated(START_S, measure_noop, plan)
    noop_ms = next(row.figures[P50] for row in noop if row.name == ONE_CLIENT)
    bundle = open_bundle(plan.bundle)
    settings = bundle.config.serve.model_copy(update={"port": free_port()})
    asked = [recommendation_request(user.id) for user in users_of(bundle)]
    found: list[dict[str, float]] = []
    with workers(1) as engine, workers(2) as loops, running_graph(bundle.folder, settings):
        isolated(AROUND_RUN_S, run_load, Load(settings.port, asked, 64, None, items=ITEMS))
        engine.submit(turn, plan.bundle, AT_ONCE, cores(), None).result()
        both_at_once(loops)  # a pool starts its processes when it first needs them
        for _ in range(rounds):
            with halted(but=pids(engine, loops)):
                both = both_at_once(loops)
                best = engine.submit(turn, plan.bundle, AT_ONCE, cores(), plan.seconds).result()
                alone = engine.submit(
                    turn, plan.bundle, 1, settings.engine_threads, plan.seconds
                ).result()
            many, one = (
                load(settings.port, asked, clients, plan.seconds) for clients in (CLIENTS[-1], 1)
            )
            found.append(
                {
                    "two_of_two": both,
                    "vllm_requests_s": best.rate,
                    "graph_requests_s": many.rate,
                    "graph_over_vllm": many.rate / best.rate,
                    "vllm_p50_ms": percentiles(alone)[P50],
                    "graph_p50_ms": percentiles(one)[P50],
                    "beside_ms": percentiles(one)[P50] - percentiles(alone)[P50] - noop_ms,
                }
            )
            print(json.dumps({name: round(value, 3) for name, value in found[-1].items()}))
    return {
        "noop_p50_ms": noop_ms,
        "rounds": found,
        "graph_over_vllm": median(each["graph_over_vllm"] for each in found),
        "at_least": THROUGHPUT_TARGET,
        "beside_ms": median(each["beside_ms"] for each in found),
        "at_most_ms": LATENCY_LIMIT_MS,
    }


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Keep processes that wait for work."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        yield pool


def both_at_once(loops: ProcessPoolExecutor) -> float:
    """Return what two loops at once get of twice the speed of one."""
    alone = loops.submit(turns_of_a_loop).result()
    together = [loops.submit(turns_of_a_loop) for _ in range(2)]
    return sum(one.result() for one in together) / (2 * alone)


def turns_of_a_loop() -> int:
    """Count for a moment."""
    end, count = time.perf_counter() + LOOP_S, 0
    while time.perf_counter() < end:
        count += 1
    return count


@cache
def loaded(bundle: Path, threads: int) -> tuple[RawEngine, list[Query]]:
    """Return vLLM as it comes, and a query of every user; once in a process."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    opened = open_bundle(bundle)
    serve = opened.config.serve.model_copy(update={"engine_threads": threads})
    max_history = opened.config.models.item_lm.max_history
    engine = RawEngine(opened.item_lm(), len(opened.catalogue()), max_history, serve)
    return engine, queries_of(opened, ITEMS)


def turn(bundle: Path, at_once: int, threads: int, seconds: float | None) -> Run:
    """Let vLLM rank so many users at once until the time is over, or all of them once."""
    import torch

    engine, queries = loaded(bundle, cores())
    torch.set_num_threads(threads)
    return timed(calls_of(engine.rank, queries, at_once), at_once, seconds)


def load(port: int, asked: list[bytes], clients: int, seconds: float) -> Run:
    """Let clients ask the graph, after a warm-up, from a process of their own."""
    wanted = Load(port, asked, clients, seconds, WARM_UP * seconds, ITEMS)
    return isolated(2 * seconds + AROUND_RUN_S, run_load, wanted).run


def pids(*pools: ProcessPoolExecutor) -> set[int]:
    """Return the processes of some pools."""
    return {pid for pool in pools for pid in pool._processes}


if __name__ == "__main__":  # every process that is started from here imports this file again
    main()
