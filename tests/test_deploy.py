"""Another bundle on a running graph, over real HTTP and under constant load.

The bundles differ in titles and in the order of items, so an answer that mixed their numbers
would show it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from graphs import ENOUGH_FOR_BOTH, Answer, SharedGraph, ask, ids
from heliograph.bundle import Bundle
from heliograph.cli import app as commands
from heliograph.config import EventsConfig
from heliograph.turns import Turn, take_turn
from rollouts import (
    ENOUGH,
    Clients,
    N,
    deployments,
    end_of,
    post,
    replace_replicas,
    titles_of,
    variant,
)
from small_shop import STEPS, item_id

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Shop:
    """Two bundles of one shop, in one folder."""

    old: Bundle
    new: Bundle

    @property
    def bundles(self) -> Path:
        return self.old.folder.parent


@pytest.fixture(scope="module")
def shop(two_ingress_replicas: SharedGraph, new_edition: Bundle) -> Shop:
    return Shop(two_ingress_replicas.bundle, new_edition)


@pytest.fixture
def url(two_ingress_replicas: SharedGraph) -> str:
    return two_ingress_replicas.url


def serve(url: str, bundle: Bundle) -> None:
    """Deploy a bundle unless it is served."""
    if deployments(url)["current"] != bundle.id:
        assert end_of(url, post(url, "deploy", {"bundle": bundle.id}))["error"] is None


def test_no_request_fails_while_a_bundle_is_deployed_and_taken_back(url: str, shop: Shop) -> None:
    serve(url, shop.old)
    assert shop.old.catalogue().row_of[item_id(3)] != shop.new.catalogue().row_of[item_id(3)]
    with Clients(url, titles_of(shop.old, shop.new)) as clients:
        clients.wait_for(shop.old)
        assert end_of(url, post(url, "deploy", {"bundle": shop.new.id}))["error"] is None
        clients.wait_for(shop.new)
        assert end_of(url, post(url, "rollback"))["error"] is None
        clients.wait_for(shop.old)
        assert end_of(url, post(url, "rollback"))["error"] is None
        clients.wait_for(shop.new)
    assert clients.faults == []
    assert clients.answers[shop.old.id] > 2 * ENOUGH <= clients.answers[shop.new.id]
    told = deployments(url)
    assert (told["current"], told["previous"]) == (shop.new.id, shop.old.id)
    assert Counter(one["deployment"] for one in told["replicas"])["Recommend"] == 2
    for replica in told["replicas"]:
        assert replica["current"] == shop.new.id
        assert replica["loaded"] == sorted([shop.old.id, shop.new.id])


def test_who_came_lately_is_remembered_by_the_new_bundle(url: str, shop: Shop) -> None:
    serve(url, shop.old)
    for _ in range(8):  # every replica of the ingress has seen them
        ask(url, user_id="user-3", n=N, deadline_ms=10_000)
    serve(url, shop.new)
    for _ in range(4):
        answer = ask(url, user_id="user-3", n=N, deadline_ms=10_000)
        assert (answer["bundle"], answer["tier"]) == (shop.new.id, "generative")
        assert "retrieve" not in answer["timings_ms"]


def test_a_forgotten_bundle_is_loaded_again_to_roll_back(url: str, shop: Shop) -> None:
    serve(url, shop.old)
    body = {"bundle": shop.new.id, "keep_previous": False}
    assert end_of(url, post(url, "deploy", body))["error"] is None
    assert {tuple(one["loaded"]) for one in deployments(url)["replicas"]} == {(shop.new.id,)}
    assert end_of(url, post(url, "rollback"))["error"] is None
    assert ask(url, user_id="user-3")["bundle"] == shop.old.id


@pytest.mark.parametrize(
    "name",
    [
        "../bundles",
        "/etc",
        "a/b",
        "a\\b",
        "..",
        ".",
        "",
        "latest\n",
        "%2e%2e",
        "a" * 200,
        "Ä",
        "-x",
    ],
)
def test_no_path_can_be_deployed(url: str, name: str) -> None:
    status, answer = post(url, "deploy", {"bundle": name})
    assert (status, answer["error"]["field"]) == (422, "bundle")


def test_what_is_no_bundle_or_another_one_is_refused(url: str, shop: Shop, tmp_path: Path) -> None:
    (shop.bundles / "shortcut").symlink_to(shutil.copytree(shop.new.folder, tmp_path / "shortcut"))
    shutil.copytree(shop.new.folder, shop.bundles / "renamed")
    for name in ("nothing-here", "deployments", "shortcut", "renamed"):
        status, answer = post(url, "deploy", {"bundle": name})
        assert (status, answer["error"]["code"]) == (422, "invalid_bundle"), name
    current = deployments(url)["current"]
    status, answer = post(url, "deploy", {"bundle": current})
    assert (status, answer["error"]["code"]) == (409, "nothing_to_do")


def test_a_bundle_that_reads_the_event_store_otherwise_is_refused(url: str, shop: Shop) -> None:
    for settings in ({"pseudonym_key": "SHOP_SECRET"}, {"default_type": "purchase"}):
        events: EventsConfig = shop.old.config.events.model_copy(update=settings)
        status, answer = post(url, "deploy", {"bundle": variant(shop.old, events=events).id})
        assert status == 422 and "event store" not in answer["error"]["code"]
        assert next(iter(settings)) in answer["error"]["message"]


def test_a_damaged_bundle_is_refused_and_the_old_one_goes_on(url: str, shop: Shop) -> None:
    serve(url, shop.old)
    truncated, altered = variant(shop.old, seed=11), variant(shop.old, seed=12)
    file = truncated.folder / "items.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    status, answer = post(url, "deploy", {"bundle": truncated.id})
    assert status == 422 and "items.parquet" in answer["error"]["message"]
    file = altered.folder / "models/item_lm/hf/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with Clients(url, titles_of(shop.old)) as clients:
        told = end_of(url, post(url, "deploy", {"bundle": altered.id}))
        clients.wait_for(shop.old)
    assert told["step"] == "failed" and "model.safetensors" in told["error"]
    assert clients.faults == []
    told = deployments(url)
    assert told["current"] == shop.old.id
    assert not [one for one in told["replicas"] if altered.id in one["loaded"]]


def test_an_item_lm_that_says_nothing_is_not_served(url: str, shop: Shop, tmp_path: Path) -> None:
    serve(url, shop.old)
    name = "models/item_lm/hf/model.safetensors"
    weights = load_file(shop.old.folder / name)
    broken = {key: np.full_like(value, np.nan) for key, value in weights.items()}
    save_file(broken, tmp_path / "model.safetensors", metadata={"format": "pt"})
    spoilt = variant(shop.old, {name: tmp_path / "model.safetensors"})
    with Clients(url, titles_of(shop.old)) as clients:
        told = end_of(url, post(url, "deploy", {"bundle": spoilt.id}))
        clients.wait_for(shop.old)
    assert told["step"] == "failed" and "checked and is not served" in told["error"]
    assert clients.faults == []
    assert deployments(url)["current"] == shop.old.id


def test_rules_that_do_not_fit_are_told(url: str, shop: Shop) -> None:
    serve(url, shop.old)
    rules = shop.old.config.serve.rules.model_copy(update={"filter": {"no such column": 1}})
    misfit = variant(shop.old, serve=shop.old.config.serve.model_copy(update={"rules": rules}))
    told = end_of(url, post(url, "deploy", {"bundle": misfit.id}))
    assert told["step"] == "failed" and "no such column" in told["error"]
    assert deployments(url)["current"] == shop.old.id


def turn_when_free(bundles: Path) -> Turn:
    """Take the turn as soon as no deployment has it."""
    give_up = time.monotonic() + 120
    while (turn := take_turn(bundles)) is None:
        assert time.monotonic() < give_up, "somebody deploys for ever"
        time.sleep(0.1)
    return turn


def history(bundles: Path) -> list[Answer]:
    """Read what was deployed, in order."""
    files = sorted((bundles / "deployments").glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


def test_nothing_is_deployed_while_somebody_else_has_the_turn(url: str, shop: Shop) -> None:
    serve(url, shop.old)
    turn = turn_when_free(shop.bundles)
    for _ in range(ENOUGH_FOR_BOTH):
        assert turn.keep()
        status, answer = post(url, "deploy", {"bundle": shop.new.id})
        assert (status, answer["error"]["code"]) == (409, "under_way")
        assert "another deployment is under way" in answer["error"]["message"]
    assert deployments(url)["current"] == shop.old.id
    turn.give_back()
    assert end_of(url, post(url, "deploy", {"bundle": shop.new.id}))["error"] is None
    assert deployments(url)["current"] == shop.new.id


def test_of_deployments_that_are_asked_for_at_once_none_runs_beside_another(
    url: str, shop: Shop
) -> None:
    serve(url, shop.old)
    before = len(history(shop.bundles))
    wanted = [variant(shop.old, seed=seed).id for seed in (13, 14)] * 2
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: post(url, "deploy", {"bundle": name}), wanted))
    turn_when_free(shop.bundles).give_back()  # whoever was let in has ended
    begun = [answer["bundle"] for status, answer in answers if status == 202]
    refused = [(status, answer["error"]["code"]) for status, answer in answers if status != 202]
    assert begun and set(refused) <= {(409, "under_way"), (409, "nothing_to_do")}
    deployed = history(shop.bundles)
    # of two that ran together one would have failed, or not known what it came after
    assert sorted(one["bundle"] for one in deployed[before:]) == sorted(begun)
    for earlier, later in pairwise(deployed[before - 1 :]):
        assert later["previous"] == earlier["bundle"]
    assert deployments(url)["current"] == deployed[-1]["bundle"]


def test_replicas_that_are_started_again_serve_what_is_deployed(url: str, shop: Shop) -> None:
    serve(url, shop.new)
    replace_replicas(url, "Rank", "Retrieve", "Recommend")
    for user in range(8):
        answer = ask(url, user_id=f"user-{user}", n=N, deadline_ms=10_000)
        assert (answer["bundle"], answer["tier"]) == (shop.new.id, "generative")
        assert ids(answer)[0] == item_id(user + STEPS)


def test_the_commands_tell_each_step(url: str, shop: Shop) -> None:
    serve(url, shop.old)
    run = CliRunner().invoke
    done = run(commands, ["deploy", str(shop.new.folder), "--url", url])
    assert done.exit_code == 0, done.output
    for word in ("preparing", "checking", "swapping", f"{shop.old.id} was"):
        assert word in done.output
    done = run(commands, ["rollback", "--url", url])
    assert done.exit_code == 0 and f"{shop.old.id} is served" in done.output
    again = run(commands, ["deploy", shop.old.id, "--url", url])
    assert "is served already" in str(again.exception)
