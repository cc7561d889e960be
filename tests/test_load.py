"""The load generator against small servers: what is sent, what is told of each answer."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from heliograph.load import HUNG_UP, LoadError, closed_loop, http_request, read_reply


def test_an_answer_is_read_once_it_is_whole() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"
    assert [read_reply(answer[:end]) for end in (10, len(answer) - 1)] == [None, None]
    reply = read_reply(answer)
    assert reply is not None
    assert (reply.status, reply.body, reply.closes) == (200, b"body", False)
    with pytest.raises(LoadError, match="without Content-Length"):
        read_reply(b"HTTP/1.1 200 OK\r\n\r\n")


@contextmanager
def server(answers: Iterator[bytes]) -> Iterator[int]:
    """Give each request the next answer; an empty one ends the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # it has been closed
                    return
                with connection:
                    while connection.recv(1 << 16):
                        answer = next(answers)
                        if not answer:
                            break
                        connection.sendall(answer)
                        if b"connection: close" in answer:
                            break

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer(status: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Words", "content-length: 2", *headers]
    return "\r\n".join([*lines, "", "{}"]).encode()


def test_each_request_is_sent_once_and_answers_say_whose_they_are() -> None:
    with server(itertools.repeat(answer(200))) as port:
        answers = list(closed_loop(port, iter([http_request("GET", "/")] * 5), clients=1))
    assert [one.number for one in answers] == [0, 1, 2, 3, 4]
    assert all(one.good() == b"{}" and one.latency_ms > 0 for one in answers)


def test_a_failure_is_told_and_the_load_goes_on() -> None:
    replies = [answer(503), b"", answer(200, "connection: close"), answer(200)]
    with server(iter(replies)) as port:
        answers = list(closed_loop(port, iter([http_request("GET", "/")] * 4), clients=1))
    assert [one.status for one in answers] == [503, HUNG_UP, 200, 200]
    with pytest.raises(LoadError, match="status 503"):
        answers[0].good()
    with pytest.raises(LoadError, match="hung up"):
        answers[1].good()
