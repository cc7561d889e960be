"""The arithmetic and the plumbing of the benchmarks, without Ray and vLLM."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest

from figures import HIGHEST, LOWEST, P50, REQUESTS, Row, Run, number, summary, timed
from heliograph.load import LoadError, http_request
from isolation import halted, isolated
from levels import tier_note
from load import Load, run_load, tier_of
from processes import wait_until
from ratios import EMBEDDING, ENGINE, GRAPH, LIMIT, NOOP, RAW_ENGINE, TARGET, VALUE, ratios
from report import table, write_report
from suite import GROUPS, require_bundle
from turns import over_turns


def run_of(latencies_ms: list[float], seconds: float) -> Run:
    return Run(np.array(latencies_ms), len(latencies_ms), seconds)


def rate(group: str, name: str, requests: float, p50: float = 1.0, note: str = "") -> Row:
    return Row(group, name, {REQUESTS: requests, P50: p50}, note)


def test_the_summary_is_that_of_the_median_run_with_the_spread_of_all() -> None:
    runs = [run_of([10.0] * 30, 1.0), run_of([1.0] * 10, 1.0), run_of([5.0, 7.0] * 10, 1.0)]
    figures = summary(runs)
    assert (figures[REQUESTS], figures[LOWEST], figures[HIGHEST]) == (20.0, 10.0, 30.0)
    assert figures[P50] == 6.0
    assert figures["p99 ms"] == 7.0


def test_percentiles_of_a_hundred_latencies_are_their_ranks() -> None:
    figures = summary([run_of([float(ms) for ms in range(101)], 1.0)])
    assert [figures[f"p{percent} ms"] for percent in (50, 95, 99)] == [50.0, 95.0, 99.0]


def test_a_timed_run_makes_every_call_once_or_goes_round_until_the_time_is_over() -> None:
    made: list[str] = []
    calls = [lambda: made.append("a"), lambda: made.append("b"), lambda: time.sleep(0.01)]
    assert timed(calls, requests_a_call=32, seconds=None).requests == 3 * 32
    assert made == ["a", "b"]
    assert timed(calls, requests_a_call=1, seconds=0.05).requests >= 6
    assert timed(calls, requests_a_call=1, seconds=0.0).requests == 1


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (0.02345, "0.0234"), (1.5, "1.50"), (98.76, "98.8"), (1234.5, "1,234")],
)
def test_numbers_have_three_significant_digits(value: float, written: str) -> None:
    assert number(value) == written


def test_a_table_has_a_column_a_figure_and_leaves_a_cell_empty_where_a_row_has_none() -> None:
    rows = [Row("g", "one", {"a": 1.0, "b": 2.0}), Row("g", "two", {"b": 3.0}, "careful")]
    assert table("g", rows).splitlines() == [
        "## G",
        "",
        "|  | a | b | note |",
        "| --- | ---: | ---: | --- |",
        "| one | 1.00 | 2.00 |  |",
        "| two |  | 3.00 | careful |",
    ]


def test_the_report_is_written_for_machines_and_for_people(tmp_path: Path) -> None:
    rows = [rate("g", "one", 12.0)]
    write_report(tmp_path / "new", {"CPU": "abacus", "versions": {"ray": "2"}}, rows)
    content = json.loads((tmp_path / "new" / "results.json").read_text())
    assert content["facts"]["versions"] == {"ray": "2"}
    assert content["rows"][0]["figures"][REQUESTS] == 12.0
    text = (tmp_path / "new" / "results.md").read_text()
    assert "- CPU: abacus\n- versions: ray 2\n" in text
    assert "| one | 12.0 | 1.00 |" in text


def test_the_graph_at_its_best_is_compared_with_the_engine_at_its_best() -> None:
    rows = [
        rate(RAW_ENGINE, "LLMEngine: first visit, batches of 32", 900.0),
        rate(RAW_ENGINE, "LLMEngine: one request at a time", 200.0, p50=4.0),
        rate(RAW_ENGINE, "LLMEngine: 256 at once", 500.0),
        rate(ENGINE, "in_process: one request at a time", 400.0, p50=2.0),
        rate(ENGINE, "in_process: 256 at once", 1000.0),
        rate(GRAPH, "first visit, 32 clients", 450.0),
        rate(GRAPH, "1 client", 100.0, p50=12.0),
        rate(GRAPH, "16 clients", 250.0, note="NOT THE FULL GRAPH"),
        rate(NOOP, "1 client", 400.0, p50=3.0),
    ]
    throughput, first_visit, of_ours, overhead, latency = ratios(rows)
    assert first_visit.figures == {VALUE: 0.5, TARGET: 0.5}
    assert throughput.figures == {VALUE: 0.5, TARGET: 0.5}
    assert throughput.note == "16 clients / LLMEngine: 256 at once; NOT THE FULL GRAPH"
    assert of_ours.figures == {VALUE: 0.25}
    assert overhead.figures == {VALUE: 5.0, LIMIT: 4.0}
    assert latency.figures == {VALUE: 3.0}


def test_the_median_engine_latency_is_that_of_the_engine_as_it_is_served() -> None:
    rows = [
        rate(RAW_ENGINE, "LLMEngine, 1 thread: one request at a time", 200.0, p50=4.0),
        rate(RAW_ENGINE, "LLMEngine, 2 threads: one request at a time", 400.0, p50=2.0),
        rate(GRAPH, "1 client", 100.0, p50=12.0),
    ]
    assert ratios(rows)[-1].figures == {VALUE: 3.0}


def test_of_several_turns_the_median_counts_with_the_spread_of_all() -> None:
    turns = [[rate("g", "one", requests, p50=requests)] for requests in (30.0, 10.0, 20.0)]
    (row,) = over_turns(turns)
    assert row.figures == {REQUESTS: 20.0, P50: 20.0, LOWEST: 10.0, HIGHEST: 30.0}
    assert over_turns(turns[:2])[0].figures[REQUESTS] == 10.0


def test_rows_of_turns_stay_in_their_order_and_one_that_a_turn_lacks_is_kept() -> None:
    one, two = rate("g", "one", 1.0), rate("g", "two", 2.0)
    assert [row.name for row in over_turns([[one], [one, two]])] == ["one", "two"]


def test_a_mark_of_any_turn_is_kept() -> None:
    marked = rate("g", "one", 5.0, note="NOT THE FULL GRAPH")
    assert over_turns([[marked], [rate("g", "one", 1.0)]])[0].note == marked.note


def test_what_is_not_at_work_is_halted_and_goes_on_afterwards() -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleeping) as halts, subprocess.Popen(sleeping) as works:

        def stopped() -> list[bool]:
            states = [psutil.Process(one.pid).status() for one in (halts, works)]
            return [state == psutil.STATUS_STOPPED for state in states]

        with halted(but={works.pid}):
            wait_until(lambda: stopped() == [True, False])
        wait_until(lambda: stopped() == [False, False])
        halts.kill()
        works.kill()


def test_embedding_is_compared_with_sentence_transformers() -> None:
    rows = [
        Row(EMBEDDING, "sentence-transformers, batch_size=64", {"items/s": 100.0}),
        Row(EMBEDDING, "Encoder, in process", {"items/s": 150.0}),
    ]
    (ratio,) = ratios(rows)
    assert ratio.figures == {VALUE: 1.5}


def test_ratios_without_their_rows_are_left_out() -> None:
    assert ratios([]) == []
    assert ratios([rate(GRAPH, "1 client", 100.0)]) == []


def test_a_run_with_more_than_one_cheaper_answer_in_a_hundred_is_marked() -> None:
    assert tier_note(Counter(generative=99, retrieval=1)) == ""
    assert tier_note(Counter(generative=98, retrieval=2)) == (
        "NOT THE FULL GRAPH: 98 generative, 2 retrieval"
    )


def test_a_missing_bundle_ends_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run `heliograph build examples/movielens"):
        require_bundle(tmp_path)
    (tmp_path / "manifest.json").touch()
    require_bundle(tmp_path)


def test_an_answer_with_too_few_items_is_an_error() -> None:
    assert tier_of(b'{"items": [1, 2], "tier": "retrieval"}', items=2) == "retrieval"
    with pytest.raises(LoadError, match="expected 3 items"):
        tier_of(b'{"items": [1, 2], "tier": "retrieval"}', items=3)


class Echo(BaseHTTPRequestHandler):
    """Answers with the items it is asked for, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"items": [0] * wanted["n"], "tier": "generative"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_load_without_a_time_sends_every_request_once(port: int) -> None:
    requests = [http_request("POST", "/", {"n": 3})] * 7
    outcome = run_load(Load(port, requests, clients=2, seconds=None, items=3))
    assert outcome.tiers == {"generative": 7}
    assert len(outcome.run.latencies_ms) == 7


def test_answers_of_the_warm_up_are_checked_but_not_counted(port: int) -> None:
    requests = [http_request("POST", "/", {"n": 3})]
    outcome = run_load(Load(port, requests, 3, seconds=0.2, warm_up_s=0.2, items=3))
    assert 0 < outcome.run.requests < outcome.tiers["generative"]
    assert outcome.run.seconds == pytest.approx(0.2)
    with pytest.raises(LoadError, match="expected 4 items"):
        run_load(Load(port, requests, 3, seconds=0.05, items=4))


def test_a_server_that_hangs_up_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        load = Load(server.getsockname()[1], [http_request("GET", "/")], 1, seconds=None)
        with pytest.raises(LoadError, match="hung up"):
            run_load(load)
        thread.join()


def test_an_isolated_function_runs_in_a_process_of_its_own() -> None:
    assert isolated(30, os.getpid) != os.getpid()


def test_an_isolated_function_that_fails_tells_why() -> None:
    with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
        isolated(30, int, "three")


def test_an_isolated_function_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="died"):
        isolated(30, os._exit, 1)


def test_an_isolated_function_that_hangs_is_stopped() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="longer than 1 s"):
        isolated(1, time.sleep, 60)
    assert time.monotonic() - started < 20


def test_the_groups_are_named_as_the_command_line_has_them() -> None:
    assert list(GROUPS) == ["noop", "engine", "retrieval", "graph", "embedding"]
