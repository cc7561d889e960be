"""Which bundle a graph serves, as it stands on the disk beside the bundles.

Each deployment is a file of its own, `deployments/<generation>.json`, written once: whoever comes
second to a generation is told so, on any file system that all nodes share. A replica that starts,
wherever and whenever, reads the newest one of its graph and so serves what the others serve.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from heliograph.bundle import LATEST, Bundle, open_bundle
from heliograph.config import HeliographConfig
from heliograph.experiments import Experiment
from heliograph.workspace import InputError

FOLDER = "deployments"
BUNDLE_ID = r"^[a-z0-9][a-z0-9-]{0,127}$"
"""Of what may be named over HTTP: a folder beside the served bundle, never a path."""

STORE_MEANING = ("pseudonym_key", "default_type")
"""Settings of `events` by which the store's rows were written: another bundle with others would not
find its users, or count an event that is sent again twice."""


class Superseded(InputError):
    """Another deployment was written first."""


class NameTaken(InputError):
    """The name of an experiment stands for another one."""


@dataclass(frozen=True)
class Deployment:
    """One decision about what is served."""

    generation: int
    graph: str
    """Identifier of the running graph: a graph that is started anew decides anew."""

    bundle: str
    previous: str | None
    """What was served before; None: nothing that a rollback leads to."""

    at: str
    """ISO 8601, UTC."""

    experiment: Experiment | None = None
    """Who gets another bundle than this one; None: nobody."""


@dataclass(frozen=True)
class Run:
    """One time that an experiment was going on."""

    graph: str
    experiment: Experiment
    control: str
    """The bundle that was served."""

    started: str
    """ISO 8601, UTC."""

    ended: str | None
    """None: it goes on, or ended with its graph."""


def newest_generation(bundles: Path) -> int:
    """Return the number of the newest deployment beside the bundles, 0 where there is none."""
    return max(_generations(bundles), default=0)


def newest_deployment(bundles: Path, graph: str | None = None) -> Deployment | None:
    """Return the newest deployment of a graph, or of any."""
    for generation in sorted(_generations(bundles), reverse=True):
        deployment = _read(bundles, generation)
        if graph is None or deployment.graph == graph:
            return deployment
    return None


def experiment_runs(bundles: Path) -> list[Run]:
    """Return every run of an experiment beside the bundles, the oldest first."""
    runs: list[Run] = []
    for generation in sorted(_generations(bundles)):
        now = _read(bundles, generation)
        for place, run in enumerate(runs):
            if run.ended is None and run.graph == now.graph:
                runs[place] = replace(run, ended=now.at)
        if now.experiment is not None:
            runs.append(Run(now.graph, now.experiment, now.bundle, now.at, None))
    return runs


def require_same_experiment(bundles: Path, experiment: Experiment, control: str) -> None:
    """Refuse a name under which something else was compared: its exposures would be mixed.

    Raises:
        NameTaken: It stands for other bundles or another share.
    """
    for run in experiment_runs(bundles):
        if run.experiment.name != experiment.name:
            continue
        if run.experiment != experiment or run.control != control:
            raise NameTaken(
                f"the experiment {experiment.name} compared {run.experiment.treatment} with "
                f"{run.control} for a share of {run.experiment.share:g} on {run.started}; take the "
                "same bundles and share to go on with it, or another name"
            )


def write_deployment(bundles: Path, deployment: Deployment) -> None:
    """Write a deployment, whole or not at all.

    Raises:
        Superseded: The generation is there already.
    """
    folder = bundles / FOLDER
    folder.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".draft-", delete=False) as draft:
        json.dump(asdict(deployment), draft, indent=1)
        draft.flush()
        os.fchmod(draft.fileno(), 0o644)  # whoever serves on another node reads it
        os.fsync(draft.fileno())
    try:
        os.link(draft.name, _path(bundles, deployment.generation))  # fails where there is one
    except FileExistsError:
        raise Superseded(
            "another deployment came first, so this one was given up; look at what is served now "
            "and try again"
        ) from None
    finally:
        os.unlink(draft.name)


def bundle_to_serve(path: Path) -> Bundle:
    """Open the bundle that a graph starts with.

    Args:
        path: A bundle; or a folder of bundles, of which the one deployed last is taken, or the
            newest where none was ever deployed.

    Raises:
        InputError: It is no bundle, or not whole.
    """
    if not (path / LATEST).is_file():
        return open_bundle(path)
    deployment = newest_deployment(path)
    return open_bundle(path) if deployment is None else named_bundle(path, deployment.bundle)


def named_bundle(bundles: Path, bundle_id: str) -> Bundle:
    """Open a bundle by its identifier.

    Raises:
        InputError: No such bundle lies in the folder itself, or it is not whole.
    """
    folder = bundles / bundle_id
    is_name = re.fullmatch(BUNDLE_ID, bundle_id) is not None
    if not is_name or not folder.is_dir() or folder.resolve().parent != bundles.resolve():
        raise InputError(
            f"no bundle {bundle_id!r} beside the one that is served; copy it there (every node "
            "must see it) or build it, and name it by its identifier"
        )
    opened = open_bundle(folder)
    if opened.id != bundle_id:
        raise InputError(
            f"the folder {bundle_id} holds the bundle {opened.id}; a bundle's folder has its name"
        )
    return opened


def require_same_store(old: HeliographConfig, new: HeliographConfig) -> None:
    """Refuse a bundle for which the events in the store would mean something else.

    Raises:
        InputError: A setting differs; the message names it.
    """
    for name in STORE_MEANING:
        before, after = getattr(old.events, name), getattr(new.events, name)
        if before != after:
            raise InputError(
                f"events.{name} is {after!r} in the new bundle and {before!r} in the served one: "
                "events in the store would mean something else; build the bundle with the same "
                "setting, or stop the graph and start it with the new bundle"
            )


def _generations(bundles: Path) -> list[int]:
    folder = bundles / FOLDER
    if not folder.is_dir():
        return []
    return [int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()]


def _path(bundles: Path, generation: int) -> Path:
    return bundles / FOLDER / f"{generation:08}.json"


def _read(bundles: Path, generation: int) -> Deployment:
    path = _path(bundles, generation)
    try:
        fields = json.loads(path.read_text())
        if fields.get("experiment") is not None:
            fields["experiment"] = Experiment(**fields["experiment"])
        return Deployment(**fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a deployment ({error}); remove the file") from error
