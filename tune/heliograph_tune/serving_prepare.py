"""What the trials of the running graph share: a bundle of their own, and Serve.

The bundle's models are fitted on training events and its users are the visitors, so nothing that
is served in a trial contains a test item.
"""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray import serve

from heliograph.blend import Blend
from heliograph.build import Build
from heliograph.bundle import RANKING_FILE, write_bundle
from heliograph.catalog import ITEMS_FILE
from heliograph.config import HeliographConfig
from heliograph.event_store.engine import require_usable, store_url
from heliograph.history import HISTORIES_FILE, write_histories
from heliograph.model_stages import model_names
from heliograph.splits import NextItems
from heliograph.workspace import InputError, digest_of, write_json
from heliograph_serve.graph import end_serve, require_free_port, start_serve
from heliograph_tune.run_folder import RunFolder
from heliograph_tune.serving_trial import Place, as_measured
from heliograph_tune.visitors import visits_of


def write_search_bundle(build: Build, asked: NextItems, blend: Blend, bundles: Path) -> Path:
    """Write what the graph of a search serves.

    Args:
        build: Its models are fitted and indexed.
        asked: The users who come, with their training histories.
        blend: Weights of the evidence.
        bundles: Folder that the bundle is written to.
    """
    events = build.config.events.model_copy(update={"pseudonym_key": None})  # nobody is named
    config = build.config.model_copy(update={"events": events})
    with tempfile.TemporaryDirectory(prefix="heliograph-tune-") as folder:
        histories, ranking = Path(folder, HISTORIES_FILE), Path(folder, RANKING_FILE)
        write_histories(visits_of(asked.histories), histories)
        write_json(ranking, blend.dump())
        parts = {
            ITEMS_FILE: build.stages.folder("items") / ITEMS_FILE,
            HISTORIES_FILE: histories,
            RANKING_FILE: ranking,
            "index": build.stages.folder("index"),
        }
        parts |= {name: build.stages.folder(name) for name in model_names("")}
        return write_bundle(parts, config, bundles)


def place_of(folder: RunFolder, bundle: Path) -> Place:
    """Return where the graph of a run is to be."""
    name = f"search-{digest_of(str(folder.path.resolve()))[:12]}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Place(bundle, int(probe.getsockname()[1]), name)


@contextmanager
def serve_for_trials(place: Place, config: HeliographConfig) -> Iterator[None]:
    """Run Serve, without a graph yet, for as long as the block runs.

    Raises:
        InputError: Serve runs on this cluster already.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its lines would cut the table in two
    applications = set(serve.status().applications)
    if applications == {place.name}:
        end_serve()  # left by a sitting that was killed: nobody else is at work in the run's folder
    elif serve.status().proxies:
        raise InputError(
            "Ray Serve runs on this cluster already "
            f"({', '.join(sorted(applications)) or 'without an application'}), and a search would "
            "measure it and disturb it; end it (`serve shutdown`), or search on another cluster"
        )
    settings = as_measured(config.serve, place.port)
    require_free_port(settings.host, settings.port)
    require_usable(store_url(settings, place.bundle.parent))
    start_serve(settings)
    try:
        yield
    finally:
        end_serve()
