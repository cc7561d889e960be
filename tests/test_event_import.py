"""Lines on their way to the endpoint. What the endpoint does with them: test_graph_feedback.py."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client import EndpointError, EndpointUnavailable
from heliograph.event_store import importing
from heliograph.event_store.importing import Importer, blocks
from heliograph.workspace import InputError

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


@given(
    st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    st.booleans(),
)
def test_every_line_comes_once_with_the_place_behind_it(lines: list[bytes], ended: bool) -> None:
    content = b"\n".join(lines) + (b"\n" if ended else b"")
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    seen = [line for block in blocks(read, start=100) for line in block]
    os.close(read)
    assert b"\n".join(line.text for line in seen) == content.removesuffix(b"\n")
    for line in seen:
        assert content[: line.end - 100].removesuffix(b"\n").endswith(line.text)


def test_a_pipe_is_read_as_lines_come() -> None:
    read, write = os.pipe()
    coming = blocks(read, start=0)
    os.write(write, b"one\ntwo\nthr")
    assert [line.text for line in next(coming)] == [b"one", b"two"]
    os.write(write, b"ee\n")
    assert [line.text for line in next(coming)] == [b"three"]
    os.close(write)
    assert list(coming) == []
    os.close(read)


@pytest.mark.parametrize("end", [b"\n", b"\nlast\n", b""])
def test_of_a_line_that_is_too_long_only_the_beginning_is_kept(tmp_path: Path, end: bytes) -> None:
    content = b"first\n" + b"x" * (3 << 20) + end
    file = tmp_path / "clicks.jsonl"
    file.write_bytes(content)
    descriptor = os.open(file, os.O_RDONLY)
    lines = [line for block in blocks(descriptor) for line in block]
    os.close(descriptor)
    assert [line.is_whole for line in lines] == [True, False, True][: 3 if b"last" in end else 2]
    assert lines[1].text == b"x" * 1000
    assert lines[0].end == len(b"first\n")
    assert lines[1].end == len(content) - len(end.removeprefix(b"\n"))
    assert lines[-1].end == len(content)


def test_a_line_that_is_too_long_is_set_aside_and_stops_nothing(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_bytes(b"nothing\n" + b"x" * (2 << 20) + b"\nnothing\n")
    assert importer(tmp_path).run(source, follow=False).rejected == 3
    rejected = [json.loads(line) for line in (tmp_path / "rejected").read_text().splitlines()]
    assert [row["reason"].split(":")[0] for row in rejected] == [
        "not JSON",
        "longer than 1048576 bytes",
        "not JSON",
    ]
    assert rejected[1]["line"] == "x" * 1000


def importer(tmp_path: Path, url: str = NOBODY, batch: int = 2) -> Importer:
    return Importer(url, tmp_path / "offset", tmp_path / "rejected", batch, give_up_s=0)


def test_lines_that_are_no_events_are_set_aside_with_the_reason(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text('{"user_id": "a"}\n\nnothing\n{"user_id": "a", "item_id": "b"}\n[]\n')
    assert importer(tmp_path).run(source, follow=False).rejected == 4
    rejected = [json.loads(line) for line in (tmp_path / "rejected").read_text().splitlines()]
    assert [row["reason"].split(":")[0] for row in rejected] == [
        "item_id",
        "not JSON",
        "neither event_id nor timestamp",
        "Input should be a valid dictionary or instance of NewEvent",
    ]
    assert rejected[1]["line"] == "nothing"
    # what has been dealt with is not looked at again, unless it is another file
    assert importer(tmp_path).run(source, follow=False).rejected == 0
    source.rename(tmp_path / "old")
    source.write_text("nothing\n")
    assert importer(tmp_path).run(source, follow=False).rejected == 1


def test_the_place_is_noted_only_behind_what_was_acknowledged(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    good = json.dumps({"user_id": "a", "item_id": "b", "timestamp": 1}) + "\n"
    source.write_text("nothing\nnothing\n" + good * 3)
    with pytest.raises(EndpointUnavailable, match="nothing answers"):
        importer(tmp_path).run(source, follow=False)
    assert json.loads((tmp_path / "offset").read_text())["offset"] == len("nothing\nnothing\n")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pass a file of JSON lines"):
        importer(tmp_path).run(tmp_path / "none", follow=False)


class Endpoint:
    """Stands where the graph would be, and answers each batch as it is told to."""

    def __init__(self, answer: Callable[[list[Any]], tuple[int, object]]) -> None:
        self.batches: list[list[Any]] = []
        self.answer = answer
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                batch = json.loads(body)["events"]
                endpoint.batches.append(batch)
                status, content = endpoint.answer(batch)
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def items(self) -> list[str]:
        """Of every event that came, in the order in which they came."""
        return [event["item_id"] for batch in self.batches for event in batch]


def kept(batch: list[Any]) -> tuple[int, object]:
    return 200, {"new": len(batch), "repeated": 0, "erased": 0}


def refused(status: int, message: str = "no", field: str | None = None) -> tuple[int, object]:
    return status, {"error": {"code": "invalid_request", "message": message, "field": field}}


def lines(*items: str) -> str:
    return "".join(
        json.dumps({"user_id": "ann", "item_id": item, "timestamp": 1}) + "\n" for item in items
    )


def noted(tmp_path: Path) -> int:
    place = tmp_path / "offset"
    return int(json.loads(place.read_text())["offset"]) if place.is_file() else 0


@pytest.mark.parametrize("status", [400, 422])
def test_an_event_that_the_endpoint_refuses_is_set_aside_and_the_others_count(
    tmp_path: Path, status: int
) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("a", "bad", "b", "c"))

    def answer(batch: list[Any]) -> tuple[int, object]:
        is_bad = any(event["item_id"] == "bad" for event in batch)
        return refused(status, "that is none of ours") if is_bad else kept(batch)

    with Endpoint(answer) as endpoint:
        done = importer(tmp_path, endpoint.url).run(source, follow=False)
    assert (done.new, done.rejected) == (3, 1)
    (row,) = [json.loads(line) for line in (tmp_path / "rejected").read_text().splitlines()]
    assert "that is none of ours" in row["reason"] and '"bad"' in row["line"]
    assert noted(tmp_path) == len(lines("a", "bad", "b", "c"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refused(401, "an API key is missing"), "401.*an API key is missing.*HELIOGRAPH_KEY"),
        (refused(403, "the key shop has the scopes read"), "403.*HELIOGRAPH_KEY"),
        (refused(404, "Not Found"), "404.*Not Found"),
        ((404, "<html>404 Not Found</html>"), "404.*not JSON"),  # HAProxy while no app is routed
        ((404, "Path '/v1/events' not found."), "404.*not JSON"),
        ((422, "<html>not ours</html>"), "422.*not JSON"),
        ((400, {"detail": "of another server"}), "400.*of another server"),
        ((422, {"error": "of another server"}), "422.*of another server"),
        ((422, ["of another server"]), "422.*of another server"),
        ((302, ""), "302"),
        ((200, "<html>welcome</html>"), "200.*not JSON"),
        ((200, {"welcome": True}), "welcome.*counts of new"),
    ],
)
def test_an_answer_that_is_not_about_the_events_stops_the_import_where_it_is(
    tmp_path: Path, answer: tuple[int, object], message: str
) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("a", "b", "c", "d"))
    replies = [kept([1, 2]), answer]
    with Endpoint(lambda batch: replies.pop(0)) as endpoint:
        with pytest.raises(EndpointError, match=message) as caught:
            importer(tmp_path, endpoint.url).run(source, follow=False)
        assert "start the import again" in str(caught.value)
        assert len(endpoint.batches) == 2  # nothing is sent in parts, nothing behind it either
    assert not (tmp_path / "rejected").exists()
    assert noted(tmp_path) == len(lines("a", "b"))
    with Endpoint(kept) as endpoint:  # put right, it goes on
        assert importer(tmp_path, endpoint.url).run(source, follow=False).new == 2
        assert endpoint.items == ["c", "d"]


def test_a_batch_that_is_too_large_is_sent_in_parts(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("a", "b", "c", "d", "e"))

    def answer(batch: list[Any]) -> tuple[int, object]:
        return (413, "<html>too large</html>") if len(batch) > 1 else kept(batch)

    with Endpoint(answer) as endpoint:
        assert importer(tmp_path, endpoint.url, batch=5).run(source, follow=False).new == 5
    assert not (tmp_path / "rejected").exists()


def test_an_event_that_alone_is_too_large_stops_the_import(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("a", "b"))
    with (
        Endpoint(lambda batch: refused(413, "the body is too large")) as endpoint,
        pytest.raises(EndpointError, match=r"413.*serve\.limits\.body_bytes"),
    ):
        importer(tmp_path, endpoint.url).run(source, follow=False)
    assert not (tmp_path / "rejected").exists() and noted(tmp_path) == 0


@contextlib.contextmanager
def following(endpoint: Endpoint, tmp_path: Path, source: Path) -> Iterator[None]:
    """Follow a file for as long as the block runs."""
    ended: list[str] = []

    def run() -> None:
        try:
            importer(tmp_path, endpoint.url).run(source, follow=True)
        except EndpointError as error:
            ended.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        endpoint.answer = lambda batch: refused(401)
        with source.open("a") as file:
            file.write(lines("the end"))
        thread.join(timeout=20)
        assert len(ended) == 1


def wait_for(endpoint: Endpoint, *items: str) -> None:
    give_up = time.monotonic() + 20
    while endpoint.items != list(items) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert endpoint.items == list(items)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for those who write to a file that was rotated."""
    monkeypatch.setattr(importing, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(importing, "LINGER_S", 1.0)


@pytest.mark.usefixtures("soon")
def test_a_file_that_is_rotated_is_finished_and_the_new_one_followed(tmp_path: Path) -> None:
    source, old = tmp_path / "clicks.jsonl", tmp_path / "clicks.jsonl.1"
    source.write_text(lines("a"))
    with Endpoint(kept) as endpoint, following(endpoint, tmp_path, source):
        wait_for(endpoint, "a")
        source.rename(old)
        with old.open("a") as file:  # whoever writes has not heard of it yet
            file.write(lines("b"))
        wait_for(endpoint, "a", "b")
        source.write_text(lines("c"))
        with old.open("a") as file:
            file.write(lines("d").rstrip("\n"))  # and ends with half a line break
        wait_for(endpoint, "a", "b", "d", "c")
        with source.open("a") as file:
            file.write(lines("e"))
        wait_for(endpoint, "a", "b", "d", "c", "e")
    assert noted(tmp_path) == len(lines("c", "e"))  # once it has ended: notes follow the answer
    assert not (tmp_path / "rejected").exists()


@pytest.mark.usefixtures("soon")
def test_a_file_that_is_emptied_is_followed_from_its_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("a", "b"))
    with Endpoint(kept) as endpoint, following(endpoint, tmp_path, source):
        wait_for(endpoint, "a", "b")
        source.write_text(lines("c"))  # the same file, cut to nothing and written anew
        wait_for(endpoint, "a", "b", "c")
    assert "has become shorter" in caplog.text


@pytest.mark.usefixtures("soon")
def test_what_was_rotated_while_nobody_imported_comes_first(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("a", "b"))
    with Endpoint(kept) as endpoint:
        importer(tmp_path, endpoint.url).run(source, follow=False)
        with source.open("a") as file:
            file.write(lines("c"))
        source.rename(tmp_path / "clicks.jsonl.2")
        for name, item in (("clicks.jsonl.1", "d"), ("clicks.jsonl", "e")):
            time.sleep(0.02)  # file systems tell times apart that differ by some milliseconds
            (tmp_path / name).write_text(lines(item))
        (tmp_path / "clicks.jsonl.0.gz").write_bytes(b"\x1f\x8b")  # cannot be read as it is
        importer(tmp_path, endpoint.url).run(source, follow=False)
        assert endpoint.items == ["a", "b", "c", "d", "e"]
        assert importer(tmp_path, endpoint.url).run(source, follow=False).new == 0
    assert not (tmp_path / "rejected").exists()


def test_another_file_at_the_noted_place_is_read_from_its_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("a", "b"))
    with Endpoint(kept) as endpoint:
        importer(tmp_path, endpoint.url).run(source, follow=False)
        source.write_text(lines("c", "d", "e"))  # the inode is the same, and it is no shorter
        importer(tmp_path, endpoint.url).run(source, follow=False)
        assert endpoint.items == ["a", "b", "c", "d", "e"]
    assert f"behind byte {len(lines('a', 'b'))}" in caplog.text


def test_a_last_line_that_is_still_being_written_is_left_for_the_next_time(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    whole = lines("saw", "axe")
    for cut in range(len(whole) - 1, len(lines("saw")), -7):
        (tmp_path / "offset").unlink(missing_ok=True)
        source.write_text(whole[:cut])
        with Endpoint(kept) as endpoint:
            first = importer(tmp_path, endpoint.url).run(source, follow=False)
            with source.open("a") as file:  # the same file grows
                file.write(whole[cut:])
            then = importer(tmp_path, endpoint.url).run(source, follow=False)
        assert endpoint.items == ["saw", "axe"]
        assert first.rejected == then.rejected == 0
    assert noted(tmp_path) == len(whole)


def test_a_last_line_that_was_cut_off_in_a_rotated_file_is_set_aside(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("saw"))
    with Endpoint(kept) as endpoint:
        importer(tmp_path, endpoint.url).run(source, follow=False)
        with source.open("a") as file:
            file.write('{"user_id": "an')
        source.rename(tmp_path / "clicks.jsonl.1")
        source.write_text(lines("axe"))
        done = importer(tmp_path, endpoint.url).run(source, follow=False)
    assert endpoint.items == ["saw", "axe"] and done.rejected == 1


def test_a_line_that_is_nested_too_deeply_is_set_aside_and_the_others_count(
    tmp_path: Path,
) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("saw") + "[" * 100_000 + "\n" + lines("axe"))
    with Endpoint(kept) as endpoint:
        done = importer(tmp_path, endpoint.url).run(source, follow=False)
    assert endpoint.items == ["saw", "axe"] and done.rejected == 1


@pytest.mark.parametrize("place", ["", "{", "[]", "{}", '{"file": 1, "offset": "x"}'])
def test_a_noted_place_that_cannot_be_read_is_an_error_with_the_cure(
    tmp_path: Path, place: str
) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("saw"))
    (tmp_path / "offset").write_text(place)
    with pytest.raises(InputError, match="delete it, and the file is sent from its start"):
        importer(tmp_path).run(source, follow=False)


def test_a_refusal_names_the_field(tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    source.write_text(lines("saw"))
    with Endpoint(lambda _: refused(422, "is not known", "events.0.item_id")) as endpoint:
        importer(tmp_path, endpoint.url).run(source, follow=False)
    (line,) = (tmp_path / "rejected").read_text().splitlines()
    assert json.loads(line)["reason"].endswith("(422): events.0.item_id: is not known")
