"""Replicas that come and go with the work, in the real graph under a real load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from ray import serve
from ray.serve._private.common import ReplicaState

from graphs import serving
from heliograph import client
from heliograph.bundle import Bundle
from heliograph.config import DeploymentConfig
from heliograph_serve.app import APP_NAME
from small_shop import USERS

pytestmark = pytest.mark.cluster
CLIENTS = 4
PAUSE_S = 0.05
"""Between two requests of a client: a new replica is to find processors to start on."""

PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def url(bundle: Bundle) -> Iterator[str]:
    eager = {"max_replicas": 2, "upscale_delay_s": 0.0, "downscale_delay_s": 4.0}
    with serving(
        bundle,
        # the item LM is the bottleneck: a twentieth of its time is much already
        rank=DeploymentConfig.model_validate(eager | {"target_busy": 0.05}),
        recommend=DeploymentConfig.model_validate(eager | {"target_busy": 1.0}),
    ) as url:
        yield url


def running(deployment: str) -> int:
    states = serve.status().applications[APP_NAME].deployments[deployment].replica_states
    return states.get(ReplicaState.RUNNING, 0)


def wait_for_replicas(deployment: str, count: int) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while running(deployment) != count:
        assert time.monotonic() < give_up, f"{deployment} has {running(deployment)} replicas"
        time.sleep(0.2)


def test_the_bottleneck_gets_replicas_and_gives_them_back(url: str) -> None:
    stop = threading.Event()

    def ask(number: int) -> int:
        asked = 0
        while not stop.is_set():
            user = f"user-{(number + asked) % USERS}"
            answer = client.recommend(url, {"user_id": user, "n": 5})
            assert len(answer["items"]) == 5
            asked += 1
            time.sleep(PAUSE_S)
        return asked

    assert running("Rank") == 1
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, number) for number in range(CLIENTS)]
        try:
            wait_for_replicas("Rank", 2)
            assert running("Recommend") == 1  # it waits for the item LM; that is no work
        finally:
            stop.set()
        assert all(future.result() for future in asked)
    wait_for_replicas("Rank", 1)
