"""A graph whose event store does not answer from the start."""

from __future__ import annotations

import pytest

from heliograph.bundle import Bundle
from heliograph.workspace import InputError
from heliograph_serve import graph
from heliograph_serve.graph import running_graph
from processes import free_port

pytestmark = pytest.mark.cluster


def test_a_store_that_does_not_answer_is_said_soon_and_with_the_cure(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "STORE_PATIENCE_S", 1.0)
    nobody = f"postgresql://shop:secret@127.0.0.1:{free_port()}/shop"
    settings = bundle.config.serve.model_copy(update={"port": free_port(), "store": nobody})
    with (
        pytest.raises(InputError, match="event store has not answered .*--store") as said,
        running_graph(bundle.folder, settings),
    ):
        pass
    assert "secret" not in str(said.value)
