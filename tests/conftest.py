from collections.abc import Iterator

import pytest
import ray
from hypothesis import settings

settings.register_profile("heliograph", deadline=None)  # a busy machine is no bug
settings.load_profile("heliograph")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start a local Ray of two CPUs, once for all tests that are marked `cluster`."""
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20
    )
    yield
    ray.shutdown()
