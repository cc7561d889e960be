"""Lines on their way to the endpoint. What the endpoint does with them: test_graph_feedback.py."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client import EndpointUnavailable
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
    seen = [line for block in blocks(read, follow=False, start=100) for line in block]
    os.close(read)
    assert b"\n".join(line.text for line in seen) == content.removesuffix(b"\n")
    for line in seen:
        assert content[: line.end - 100].removesuffix(b"\n").endswith(line.text)


def test_a_pipe_is_read_as_lines_come() -> None:
    read, write = os.pipe()
    coming = blocks(read, follow=False, start=0)
    os.write(write, b"one\ntwo\nthr")
    assert [line.text for line in next(coming)] == [b"one", b"two"]
    os.write(write, b"ee\n")
    assert [line.text for line in next(coming)] == [b"three"]
    os.close(write)
    assert list(coming) == []
    os.close(read)


def test_a_line_without_end_is_an_error() -> None:
    read, write = os.pipe()

    def write_much() -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(write, b"x" * (2 << 20))
        os.close(write)

    writer = threading.Thread(target=write_much)
    writer.start()
    with pytest.raises(InputError, match="longer than"):
        list(blocks(read, follow=False, start=0))
    os.close(read)
    writer.join()


def importer(tmp_path: Path) -> Importer:
    return Importer(NOBODY, tmp_path / "offset", tmp_path / "rejected", batch=2, give_up_s=0)


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
