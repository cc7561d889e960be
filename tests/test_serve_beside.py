"""A graph on a Ray cluster where somebody serves already."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import httpx
import pytest
import ray
from ray import serve

from heliograph.config import ServeConfig
from heliograph.workspace import InputError
from heliograph_serve.graph import end_serve, served, start_serve
from processes import free_port

pytestmark = pytest.mark.cluster
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas do not see tests/


class Hello:
    def __call__(self) -> str:
        return "hello"


HELLO = serve.deployment(ray_actor_options={"num_cpus": 0.1})(Hello).bind()


@pytest.fixture(scope="module")
def settings(ray_cluster: None) -> Iterator[ServeConfig]:
    settings = ServeConfig(port=free_port())
    start_serve(settings)
    yield settings
    end_serve()


def serving(settings: ServeConfig, name: str) -> None:
    with served(HELLO, settings, name):
        pass


def test_a_busy_port_is_refused_with_the_cure(ray_cluster: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} .*--port"):
            serving(ServeConfig(port=port), "ours")


def test_it_joins_at_the_same_port_and_leaves_the_others_alone(settings: ServeConfig) -> None:
    serve.run(HELLO, name="theirs", route_prefix="/theirs")
    with served(HELLO, settings, "ours") as url:
        assert httpx.get(url).text == httpx.get(f"{url}/theirs").text == "hello"
        with pytest.raises(InputError, match="'ours' is served .* already, at port .* deploy"):
            serving(settings, "ours")
        with pytest.raises(InputError, match="every path .* belongs to 'ours'"):
            serving(settings, "another")
    assert set(serve.status().applications) == {"theirs"}


def test_another_port_is_refused_with_the_one_that_there_is(settings: ServeConfig) -> None:
    other = settings.model_copy(update={"port": free_port()})
    with pytest.raises(InputError, match=f"--port {settings.port}"):
        serving(other, "ours")
