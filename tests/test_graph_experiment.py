"""An experiment on a running graph: two replicas of the ingress, two bundles, one event store."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from graphs import ENOUGH_FOR_BOTH, Answer, SharedGraph, ask, ids, sums
from heliograph.bundle import Bundle
from heliograph.cli import app as commands
from heliograph.event_store.exposures import Subject, subjects
from heliograph.experiments import Experiment
from rollouts import Clients, deployments, end_of, replace_replicas, titles_of, variant
from small_shop import USERS, write_shop
from stores import opened

pytestmark = pytest.mark.cluster

NAME = "other-seed"


@dataclass(frozen=True)
class Shop:
    """Two bundles of one shop, in one folder, and what compares them."""

    control: Bundle
    treatment: Bundle

    @property
    def bundles(self) -> Path:
        return self.control.folder.parent

    @property
    def store(self) -> str:
        return f"sqlite:///{self.bundles}/events.sqlite"

    @property
    def experiment(self) -> Experiment:
        return Experiment(NAME, self.treatment.id, 0.4)

    def bundle_of(self, user: str) -> str:
        is_treated = self.experiment.assign(user).arm == "treatment"
        return self.treatment.id if is_treated else self.control.id


@dataclass
class Watchers(Clients):
    """Ask without a pause, check every answer, and note what it says of its arm."""

    shop: Shop | None = None
    exposed: Counter[str] = field(default_factory=Counter)
    """User -> answers that count in the experiment."""

    def _check(self, user: int, reply: httpx.Response) -> None:
        super()._check(user, reply)
        assert self.shop is not None
        answer, name = reply.json(), f"user-{user}"
        if answer["experiment"] is None:
            assert answer["bundle"] == self.shop.control.id, answer
        else:
            self.exposed[name] += 1
            assert answer["bundle"] == self.shop.bundle_of(name), answer
            assert answer["experiment"]["name"] == NAME
            is_treated = answer["bundle"] == self.shop.treatment.id
            assert answer["experiment"]["propensity"] == (0.4 if is_treated else 0.6)


@pytest.fixture(scope="module")
def shop(two_ingress_replicas: SharedGraph) -> Shop:
    control = two_ingress_replicas.bundle
    return Shop(control, variant(control, seed=21))


@pytest.fixture
def url(two_ingress_replicas: SharedGraph) -> str:
    return two_ingress_replicas.url


def experiment(url: str, method: str, body: Answer | None = None) -> tuple[int, Answer]:
    reply = httpx.request(method, f"{url}/v1/admin/experiments", json=body, timeout=30)
    return reply.status_code, reply.json()


def begin(url: str, shop: Shop, **changed: object) -> tuple[int, Answer]:
    body: Answer = {"name": NAME, "bundle": shop.treatment.id, "share": 0.4}
    return experiment(url, "POST", body | changed)


def start(url: str, shop: Shop) -> None:
    """Start the experiment unless it goes on."""
    if deployments(url)["replicas"][0]["experiment"] is None:
        assert end_of(url, begin(url, shop))["error"] is None


def stop(url: str) -> None:
    """Stop the experiment if it goes on."""
    if deployments(url)["replicas"][0]["experiment"] is not None:
        assert end_of(url, experiment(url, "DELETE"))["error"] is None


def post(url: str, path: str, body: Answer | None = None) -> tuple[int, str]:
    reply = httpx.post(f"{url}/v1/admin/{path}", json=body, timeout=30)
    return reply.status_code, reply.json()["error"]["code"]


def told(shop: Shop) -> list[Subject]:
    """Read every user of the experiment out of the store."""

    async def read() -> list[Subject]:
        async with opened(shop.store) as store:
            return [one async for some in subjects(store, NAME, ["purchase"]) for one in some]

    return asyncio.run(read())


def wait_until_kept(shop: Shop, answers: int) -> list[Subject]:
    """Wait until there are as many exposures in the store; returns their users."""
    give_up = time.monotonic() + 20
    while True:
        found = told(shop)
        if sum(len(one.seen) for one in found) >= answers or time.monotonic() > give_up:
            return found
        time.sleep(0.1)


def test_users_are_divided_and_no_request_fails_from_start_to_stop(url: str, shop: Shop) -> None:
    with Watchers(url, titles_of(shop.control, shop.treatment), shop=shop) as clients:
        clients.wait_for(shop.control)
        assert end_of(url, begin(url, shop))["error"] is None
        clients.wait_for(shop.treatment)
        for path, body in (
            ("deploy", {"bundle": variant(shop.control, seed=22).id}),
            ("rollback", None),
            ("experiments", {"name": "second", "bundle": shop.treatment.id}),
        ):
            expected = "nothing_to_do" if path == "rollback" else "experiment_runs"
            assert post(url, path, body) == (409, expected)
        assert {one["experiment"] for one in deployments(url)["replicas"]} == {NAME}
        done = CliRunner().invoke(commands, ["experiment", "stop", "--url", url])
        assert done.exit_code == 0 and "everybody is answered from" in done.output
        treated = clients.answers[shop.treatment.id]
        clients.wait_for(shop.control)
    assert clients.faults == []
    assert clients.answers[shop.treatment.id] == treated
    for replica in deployments(url)["replicas"]:
        assert (replica["experiment"], replica["loaded"]) == (None, [shop.control.id])
    found = wait_until_kept(shop, clients.exposed.total())
    assert sorted(len(one.seen) for one in found) == sorted(clients.exposed.values())
    assert all(len(seen.item_ids) == 5 for one in found for seen in one.seen)


def test_a_treatment_that_reads_the_event_store_otherwise_is_refused(url: str, shop: Shop) -> None:
    stop(url)
    events = shop.control.config.events.model_copy(update={"pseudonym_key": "SHOP_SECRET"})
    status, answer = begin(url, shop, bundle=variant(shop.control, events=events).id)
    assert status == 422 and "pseudonym_key" in answer["error"]["message"]
    assert begin(url, shop, bundle=shop.control.id)[1]["error"]["code"] == "nothing_to_do"
    assert experiment(url, "DELETE")[1]["error"]["code"] == "nothing_to_do"


def test_the_command_starts_it_and_a_name_stands_for_one_experiment(url: str, shop: Shop) -> None:
    stop(url)
    status, answer = begin(url, shop, share=0.5)
    assert (status, answer["error"]["code"]) == (409, "name_taken")
    command = ["experiment", "start", NAME, "--bundle", str(shop.treatment.folder), "--url", url]
    done = CliRunner().invoke(commands, [*command, "--share", "0.4"])
    assert done.exit_code == 0, done.output
    assert "40% of the users are answered from" in done.output
    users = (f"user-{number}" for number in range(USERS))
    user = next(name for name in users if shop.bundle_of(name) == shop.treatment.id)
    answer = ask(url, user_id=user, explain=True)
    assert (answer["bundle"], answer["experiment"]["arm"]) == (shop.treatment.id, "treatment")
    scores = [item["score"] for item in answer["items"]]
    assert answer["explained"] and sums(answer) == pytest.approx(np.log(scores), abs=1e-4)


def test_every_replica_divides_alike_and_killed_ones_again(url: str, shop: Shop) -> None:
    start(url, shop)
    replace_replicas(url, "Rank", "Retrieve", "Recommend")
    for user in [f"user-{number}" for number in range(4)] + ["x'; DROP TABLE exposures", "日本"]:
        for _ in range(ENOUGH_FOR_BOTH):
            answer = ask(url, user_id=user, n=5, deadline_ms=10_000)
            assert answer["experiment"]["arm"] == shop.experiment.assign(user).arm
            assert answer["bundle"] == shop.bundle_of(user)
    answer = ask(url, history=ids(answer))
    assert (answer["experiment"], answer["bundle"]) == (None, shop.control.id)


@pytest.mark.parametrize(
    ("changed", "status", "field"),
    [
        ({"name": "../x"}, 422, "name"),
        ({"name": "a'; DROP TABLE exposures"}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"bundle": "../bundles"}, 422, "bundle"),
        ({"bundle": "nothing-here"}, 422, "bundle"),
        ({"share": 0}, 422, "share"),
        ({"share": 1}, 422, "share"),
        ({"share": "half"}, 422, "share"),
        ({"arms": 3}, 422, "arms"),
    ],
)
def test_what_is_no_experiment_is_refused(
    url: str, shop: Shop, changed: Answer, status: int, field: str
) -> None:
    found, answer = begin(url, shop, **changed)
    assert (found, answer["error"]["field"]) == (status, field)


def test_the_report_is_that_of_what_users_did(url: str, shop: Shop, tmp_path: Path) -> None:
    start(url, shop)
    bought: list[dict[str, str | float]] = []
    users: Counter[str] = Counter()
    converters: Counter[str] = Counter()
    for number in range(USERS):
        user = f"buyer-{number}"
        item = ids(ask(url, user_id=user, n=5))[0]
        arm = shop.experiment.assign(user).arm
        users[arm] += 1
        if number % (2 if arm == "treatment" else 3) == 0:
            converters[arm] += 1
            bought.append({"user_id": user, "item_id": item, "type": "purchase", "value": 2.0})
        bought.append({"user_id": user, "item_id": "never shown", "type": "purchase"})
    reply = httpx.post(f"{url}/v1/events", json={"events": bought}, timeout=30)
    assert reply.status_code == 200
    options = ["--set", f"serve.store={shop.store}", "--goal", "purchase", "--json"]
    command = ["experiment", "report", str(write_shop(tmp_path)), NAME, *options]
    give_up = time.monotonic() + 20
    counted: dict[str, int] = {}
    while counted != converters and time.monotonic() < give_up:  # exposures are written later
        found = CliRunner().invoke(commands, command)
        assert found.exit_code == 0, found.output
        arms = json.loads(found.output)["arms"]
        counted = {arm: arms[arm]["converters"] for arm in arms}
    assert counted == converters
    assert all(arms[arm]["users"] >= users[arm] for arm in users)
    listed = CliRunner().invoke(commands, ["experiment", "list", "--url", url])
    assert listed.exit_code == 0 and "goes on" in listed.output


def test_an_erased_user_is_gone_from_the_exposures(url: str, shop: Shop) -> None:
    start(url, shop)
    before = sum(len(one.seen) for one in told(shop))
    for _ in range(3):
        ask(url, user_id="to be erased")
    wait_until_kept(shop, before + 3)
    receipt = httpx.delete(f"{url}/v1/users/to be erased", timeout=30).json()
    assert receipt["exposures"] == 3
    assert sum(len(one.seen) for one in told(shop)) == before


def test_to_deploy_the_treatment_ends_the_experiment(url: str, shop: Shop) -> None:
    start(url, shop)
    reply = httpx.post(f"{url}/v1/admin/deploy", json={"bundle": shop.treatment.id}, timeout=30)
    assert end_of(url, (reply.status_code, reply.json()))["error"] is None
    answer = ask(url, user_id="user-1")
    assert (answer["bundle"], answer["experiment"]) == (shop.treatment.id, None)
    runs = experiment(url, "GET")[1]["runs"]
    assert runs and all(run["ended"] and not run["goes_on"] for run in runs)
    reply = httpx.post(f"{url}/v1/admin/rollback", timeout=30)
    assert end_of(url, (reply.status_code, reply.json()))["error"] is None
    assert ask(url, user_id="user-1")["bundle"] == shop.control.id
