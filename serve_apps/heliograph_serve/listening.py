"""Who can reach the endpoint: nobody beyond this machine, unless keys or the operator say so."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import ray
from ray.serve.context import _get_global_client

from heliograph.config import ServeConfig
from heliograph.keys import read_keys
from heliograph.workspace import InputError


def keys_file(settings: ServeConfig, bundles: Path) -> Path | None:
    """Return the path of the keys file, if there is one; relative ones start at `bundles`."""
    return None if settings.keys is None else bundles / settings.keys


def require_protection(settings: ServeConfig, host: str, bundles: Path) -> None:
    """Check at the start what each replica relies on.

    Raises:
        InputError: The keys file cannot be read, or the endpoint would listen on `host` for
            whoever comes.
    """
    keys = keys_file(settings, bundles)
    if keys is not None:
        read_keys(keys)
    elif not is_loopback(host) and not settings.open_to_network:
        raise InputError(
            f"{host} can be reached from other machines, and without API keys whoever reaches it "
            "may use it; make keys (`heliograph keys add NAME --scope read`) and set serve.keys, "
            "or listen on 127.0.0.1, or set serve.open_to_network if something in front asks for "
            "keys"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name may stand for any address
        return False


def running_host() -> str | None:
    """Return the address that Serve listens on already, which no setting of ours changes."""
    if not ray.is_initialized():
        return None
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config.host
