"""Who may do what: the scope of every route, and the API keys that hold now."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from re import Pattern

from starlette.routing import BaseRoute, Route

from heliograph.keys import Key, KeyRing, Scope, read_keys
from heliograph.workspace import InputError
from heliograph_serve.body_route import BodyRoute, Quick

SCOPE_OF: Mapping[str, Scope | None] = {
    "GET /": None,
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /docs": None,
    "GET /docs/oauth2-redirect": None,
    "GET /redoc": None,
    "GET /openapi.json": None,
    "GET /v1/status": Scope.READ,
    "POST /v1/recommendations": Scope.READ,
    "GET /v1/items/{item_id:path}/similar": Scope.READ,
    "PUT /v1/items": Scope.WRITE,
    "PUT /v1/items/availability": Scope.WRITE,
    "POST /v1/events": Scope.WRITE,
    "GET /v1/users/{user_id:path}/events": Scope.ADMIN,
    "DELETE /v1/users/{user_id:path}": Scope.ADMIN,
    "POST /v1/admin/deploy": Scope.ADMIN,
    "POST /v1/admin/rollback": Scope.ADMIN,
    "GET /v1/admin/deployments": Scope.ADMIN,
    "GET /v1/admin/experiments": Scope.ADMIN,
    "POST /v1/admin/experiments": Scope.ADMIN,
    "DELETE /v1/admin/experiments": Scope.ADMIN,
}
"""Method and path of a route -> the scope that it asks for; None: open. Scopes do not contain each
other. A route that is missing here asks for `admin`."""

PROBES = frozenset({"GET /healthz", "GET /readyz"})
"""Routes to which no limit applies: a replica that is full must be seen as alive."""

LOOK_EVERY_S = 1.0
"""Time until a changed keys file counts."""

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Entry:
    """What a request wants, as far as the door needs to know."""

    label: str
    """Method and template of its route; `other` where there is no such route."""

    scope: Scope | None
    quick: Quick | None = None
    """What answers a JSON body without the router; None: nothing does."""

    is_probe: bool = False


UNKNOWN = Entry("other", Scope.ADMIN)


class RouteTable:
    """Finds the entry of a request, by the patterns that the router itself goes by."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._exact: dict[tuple[str, str], Entry] = {}
        self._patterns: list[tuple[str, Pattern[str], Entry]] = []
        for route in routes:
            if not isinstance(route, Route):
                continue
            for method in route.methods or ():
                self._add(method, route)

    def _add(self, method: str, route: Route) -> None:
        label = f"{method} {route.path}"
        quick = route.quick() if isinstance(route, BodyRoute) else None
        entry = Entry(label, SCOPE_OF.get(label, Scope.ADMIN), quick, label in PROBES)
        if route.param_convertors:
            self._patterns.append((method, route.path_regex, entry))
        else:
            self._exact[method, route.path] = entry

    def labels(self) -> set[str]:
        """Return method and path template of every route."""
        known = [*self._exact.values(), *(entry for _, _, entry in self._patterns)]
        return {entry.label for entry in known}

    def find(self, method: str, path: str) -> Entry:
        """Return the entry of the route that will answer."""
        entry = self._exact.get((method, path))
        if entry is not None:
            return entry
        for of_method, pattern, entry in self._patterns:
            if of_method == method and pattern.match(path):
                return entry
        return UNKNOWN


class WatchedKeys:
    """The keys of a file as it is now; a file that is gone or broken changes nothing."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InputError: There is none, or it is not one.
        """
        self._path = path
        self._stamp = _stamp(path)
        self._ring = KeyRing(read_keys(path))
        self._look_at = time.monotonic() + LOOK_EVERY_S

    def find(self, secret: str) -> Key | None:
        """Return the key that somebody sent, or None if there is no such key by now."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._look()
        return self._ring.find(secret)

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._ring = KeyRing(read_keys(self._path))
        except InputError as error:
            logger.error("%s; the keys read before go on counting", error)
        else:
            logger.warning("%d API keys read from %s", len(self._ring), self._path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes whenever the file is replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
