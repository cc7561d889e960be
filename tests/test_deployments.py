"""Which bundle is served, as files; and what a replica has loaded, without Ray."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from ray.exceptions import RayError

from heliograph.bundle import LATEST, Bundle, open_bundle, write_bundle
from heliograph.config import HeliographConfig, IndexConfig
from heliograph.deploy_cli import bundle_named
from heliograph.deployments import (
    Deployment,
    Superseded,
    bundle_to_serve,
    named_bundle,
    newest_deployment,
    newest_generation,
    require_same_store,
    write_deployment,
)
from heliograph.experiments import Experiment
from heliograph.item_changes import Changes
from heliograph.workspace import InputError
from heliograph_serve.app import require_as_built
from heliograph_serve.rollout import Fleet, ReplicaFailed
from heliograph_serve.shelf import NotHeld, Origin, Shelf
from test_bundle import config, write_parts

GRAPH = "this-graph"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three bundles, alpha, beta and gamma, into a folder."""
    parts = write_parts(tmp_path_factory.mktemp("parts"))
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("alpha", "beta", "gamma"):
        write_bundle(parts, config(name), folder)
    return folder


@pytest.fixture
def bundles(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "bundles"))


def named(bundles: Path, name: str) -> Bundle:
    return open_bundle(next(bundles.glob(f"{name}-*")))


def deployment(generation: int, bundle: Bundle, graph: str = GRAPH) -> Deployment:
    return Deployment(generation, graph, bundle.id, None, "2026-01-01T00:00:00+00:00")


def shelf_of(bundles: Path, load: Callable[[Bundle], str] = lambda bundle: bundle.id) -> Shelf[str]:
    alpha = named(bundles, "alpha")
    return Shelf(Origin(alpha.folder, alpha.id, GRAPH), load)


def test_the_newest_deployment_of_a_graph_counts(bundles: Path) -> None:
    alpha, beta = named(bundles, "alpha"), named(bundles, "beta")
    assert newest_deployment(bundles) is None and newest_generation(bundles) == 0
    write_deployment(bundles, deployment(1, alpha))
    write_deployment(bundles, deployment(2, beta, "another"))
    assert newest_deployment(bundles, GRAPH) == deployment(1, alpha)
    assert newest_deployment(bundles) == deployment(2, beta, "another")
    assert newest_generation(bundles) == 2
    assert newest_deployment(bundles, "a third") is None


def test_a_graph_may_search_the_indexes_of_its_first_bundle_otherwise(bundles: Path) -> None:
    alpha, beta = named(bundles, "alpha"), named(bundles, "beta")
    origin = Origin(alpha.folder, alpha.id, GRAPH, index=IndexConfig(nprobe=3))
    assert origin.open(alpha.id).config == alpha.config.model_copy(
        update={"index": IndexConfig(nprobe=3)}
    )
    assert origin.open(beta.id).config == beta.config


def test_a_graph_cannot_have_other_indexes_than_its_bundle(bundles: Path) -> None:
    alpha = named(bundles, "alpha")
    require_as_built(IndexConfig(nprobe=3, ef_search=4), alpha)
    with pytest.raises(InputError, match="only nprobe and ef_search can be others"):
        require_as_built(IndexConfig(type="hnsw"), alpha)


def test_of_many_who_write_a_generation_one_succeeds(bundles: Path) -> None:
    alpha = named(bundles, "alpha")

    def write(number: int) -> bool:
        try:
            write_deployment(bundles, deployment(1, alpha, f"graph-{number}"))
        except Superseded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(40))) == 1
    assert [path.name for path in (bundles / "deployments").iterdir()] == ["00000001.json"]


def test_a_graph_starts_with_what_was_deployed_last(bundles: Path) -> None:
    alpha, gamma = named(bundles, "alpha"), named(bundles, "gamma")
    assert (bundles / LATEST).read_text().strip() == gamma.id
    assert bundle_to_serve(bundles).id == gamma.id
    write_deployment(bundles, deployment(1, alpha))
    assert bundle_to_serve(bundles).id == alpha.id
    assert bundle_to_serve(gamma.folder).id == gamma.id


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../bundles", "latest", "none", "x\n"])
def test_only_a_bundle_in_the_folder_can_be_named(bundles: Path, name: str) -> None:
    with pytest.raises(InputError, match="beside the one that is served"):
        named_bundle(bundles, name)


def test_a_link_or_another_name_is_no_bundle_of_the_folder(bundles: Path, tmp_path: Path) -> None:
    alpha = named(bundles, "alpha")
    (bundles / "link").symlink_to(shutil.copytree(alpha.folder, tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="beside the one"):
        named_bundle(bundles, "link")
    alpha.folder.rename(bundles / "other-name")
    with pytest.raises(InputError, match=alpha.id):
        named_bundle(bundles, "other-name")


@pytest.mark.parametrize("setting", [{"pseudonym_key": "SECRET"}, {"default_type": "purchase"}])
def test_the_event_store_must_mean_the_same(setting: dict[str, str]) -> None:
    old = config("shop")
    events = old.events.model_copy(update=setting)
    new: HeliographConfig = old.model_copy(update={"events": events})
    require_same_store(old, old.model_copy(update={"name": "other"}))
    with pytest.raises(InputError, match=next(iter(setting))):
        require_same_store(old, new)


def test_a_replica_holds_the_served_bundle_and_one_beside_it(bundles: Path) -> None:
    closed: list[str] = []

    async def scenario() -> None:
        alpha, beta, gamma = (named(bundles, name) for name in ("alpha", "beta", "gamma"))
        origin = Origin(alpha.folder, alpha.id, GRAPH)
        shelf = Shelf(origin, lambda bundle: bundle.id, closed.append)
        with pytest.raises(NotHeld, match=beta.id):
            shelf[beta.id]
        await shelf.prepare(beta.id)
        assert shelf[beta.id] == beta.id and shelf.current == alpha.id
        await shelf.prepare(gamma.id)
        assert set(shelf.held) == {alpha.id, gamma.id} and closed == [beta.id]
        await shelf.follow(deployment(3, gamma))
        assert (shelf.current, shelf.generation) == (gamma.id, 3)
        await shelf.follow(deployment(2, beta))
        assert shelf.current_id == gamma.id  # an older one comes too late
        await shelf.drop(gamma.id)
        assert set(shelf.held) == {alpha.id, gamma.id}  # what is served stays
        await shelf.drop(alpha.id)
        assert set(shelf.held) == {gamma.id}

    asyncio.run(scenario())


def test_what_cannot_be_loaded_leaves_the_served_bundle_alone(bundles: Path) -> None:
    alpha, beta = named(bundles, "alpha"), named(bundles, "beta")

    def load(bundle: Bundle) -> str:
        if bundle.id == beta.id:
            raise InputError("beta is odd")
        return bundle.id

    async def scenario() -> None:
        shelf = shelf_of(bundles, load)
        with pytest.raises(InputError, match="odd"):
            await shelf.prepare(beta.id)
        assert shelf.held == {alpha.id: alpha.id}

    asyncio.run(scenario())


def test_what_was_loaded_for_nothing_is_let_go(bundles: Path) -> None:
    alpha, beta = named(bundles, "alpha"), named(bundles, "beta")
    closed: list[str] = []
    going_on = threading.Event()

    def load(bundle: Bundle) -> str:
        if bundle.id == beta.id:
            going_on.wait()
        return bundle.id

    async def amend(state: str, changes: Changes) -> str:
        if state == beta.id:
            raise InputError("its encoder is gone")
        return state

    async def scenario() -> None:
        shelf = Shelf(Origin(alpha.folder, alpha.id, GRAPH), load, closed.append, amend)
        loading = asyncio.ensure_future(shelf.prepare(beta.id))
        await asyncio.sleep(0.05)
        loading.cancel()  # whoever led the deployment has died
        with pytest.raises(asyncio.CancelledError):
            await loading
        going_on.set()
        while closed != [beta.id]:
            await asyncio.sleep(0.001)
        with pytest.raises(InputError, match="encoder"):
            await shelf.prepare(beta.id)
        assert closed == [beta.id, beta.id]
        assert shelf.held == {alpha.id: alpha.id}

    asyncio.run(scenario())


def test_a_bundle_beside_that_cannot_follow_changes_keeps_none_from_them(bundles: Path) -> None:
    alpha, beta = named(bundles, "alpha"), named(bundles, "beta")
    closed: list[str] = []

    async def amend(state: str, changes: Changes) -> str:
        if state == beta.id and changes.change:
            raise InputError("its encoder is gone")
        return f"{state}, changed" if changes.change else state

    async def scenario() -> None:
        origin = Origin(alpha.folder, alpha.id, GRAPH)
        shelf = Shelf(origin, lambda bundle: bundle.id, closed.append, amend)
        await shelf.prepare(beta.id)
        await shelf.amend(Changes(change=1))
        assert shelf.held == {alpha.id: f"{alpha.id}, changed"} and closed == [beta.id]
        assert (shelf.current, shelf.changes.change) == (f"{alpha.id}, changed", 1)
        with pytest.raises(InputError, match="encoder"):
            await shelf.follow(deployment(1, beta))
        assert shelf.current_id == alpha.id

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [NotHeld("another bundle"), RayError("it died"), OSError("full")])
def test_whatever_a_replica_fails_with_the_others_are_told_which(error: Exception) -> None:
    class Failing:
        def broadcast(self, method: str, *args: object) -> Failing:
            return self

        async def results_async(self, timeout_s: float) -> list[object]:
            raise error

    fleet = Fleet(cast(Any, Failing()), cast(Any, Failing()))
    with pytest.raises(ReplicaFailed, match=f"a replica of Rank.*{error}"):
        asyncio.run(fleet.everyone("follow", timeout_s=1.0))


def test_a_replica_that_heard_nothing_follows_what_is_on_the_disk(bundles: Path) -> None:
    beta, gamma = named(bundles, "beta"), named(bundles, "gamma")

    async def scenario() -> None:
        shelf = shelf_of(bundles)
        write_deployment(bundles, deployment(1, beta))
        shelf.look()
        while shelf.current_id != beta.id:
            await asyncio.sleep(0.001)
        shutil.rmtree(named(bundles, "alpha").folder)
        assert shelf_of_deleted(bundles).current == beta.id
        broken = bundles / "deployments" / "00000002.json"
        broken.write_text("{")
        shelf.look()  # is told in the log
        broken.unlink()
        write_deployment(bundles, deployment(3, gamma))
        while shelf.current_id != gamma.id:
            shelf.look()
            await asyncio.sleep(0.001)

    def shelf_of_deleted(bundles: Path) -> Shelf[str]:
        origin = Origin(bundles / "alpha-gone", "alpha-gone", GRAPH)
        return Shelf(origin, lambda bundle: bundle.id)

    asyncio.run(scenario())


def taking_part(generation: int, bundle: Bundle, experiment: Experiment | None) -> Deployment:
    return replace(deployment(generation, bundle), experiment=experiment)


def test_a_replica_holds_both_bundles_as_long_as_the_experiment_goes_on(bundles: Path) -> None:
    alpha, beta, gamma = (named(bundles, name) for name in ("alpha", "beta", "gamma"))
    experiment = Experiment("x", beta.id, 0.5)

    async def scenario() -> None:
        shelf = shelf_of(bundles)
        await shelf.prepare(gamma.id)
        await shelf.follow(taking_part(1, alpha, experiment))
        assert shelf.arms is not None and shelf.arms.treatment == beta.id
        assert set(shelf.held) == set(shelf.in_use) == {alpha.id, beta.id}
        await shelf.drop(beta.id)
        assert set(shelf.held) == {alpha.id, beta.id}
        await shelf.follow(taking_part(2, alpha, None))
        assert shelf.arms is None and shelf.current == alpha.id
        assert shelf[beta.id] == beta.id  # requests under way end with it
        await shelf.drop(beta.id)
        assert set(shelf.held) == {alpha.id}
        await shelf.follow(taking_part(3, alpha, experiment))
        await shelf.follow(taking_part(4, beta, None))
        assert shelf.arms is None and shelf.current == beta.id

    asyncio.run(scenario())


def test_a_replica_that_starts_takes_part_at_once(bundles: Path) -> None:
    alpha, beta = named(bundles, "alpha"), named(bundles, "beta")
    write_deployment(bundles, taking_part(1, alpha, Experiment("x", beta.id, 0.5)))
    shelf = shelf_of(bundles)
    assert shelf.arms is not None and shelf.arms.treatment == beta.id


def test_a_replica_without_the_treatment_takes_no_part_until_it_has_it(bundles: Path) -> None:
    alpha, beta = named(bundles, "alpha"), named(bundles, "beta")
    write_deployment(bundles, taking_part(1, alpha, Experiment("x", beta.id, 0.5)))
    is_broken = True

    def load(bundle: Bundle) -> str:
        if bundle.id == beta.id and is_broken:
            raise InputError("beta is odd")
        return bundle.id

    async def scenario() -> None:
        nonlocal is_broken
        shelf = Shelf(Origin(alpha.folder, alpha.id, GRAPH), load)
        assert shelf.arms is None and shelf.deployed_experiment is not None
        assert shelf.current == alpha.id
        is_broken = False
        while shelf.arms is None:
            shelf.look()
            await asyncio.sleep(0.001)

    asyncio.run(scenario())


def test_a_bundle_is_named_by_its_folder_or_by_itself(bundles: Path) -> None:
    gamma = named(bundles, "gamma")
    assert bundle_named(str(bundles)) == bundle_named(str(gamma.folder)) == gamma.id
    assert bundle_named(gamma.id) == gamma.id
    (gamma.folder / "items.parquet").unlink()
    with pytest.raises(InputError, match="items.parquet"):
        bundle_named(str(gamma.folder))
