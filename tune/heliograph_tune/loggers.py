"""Who else is told of each trial that ends, by option. The journal has it all, and comes first."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from heliograph.workspace import InputError
from heliograph_tune.records import Asked, Finished
from heliograph_tune.search_file import Logger

PACKAGES: dict[Logger, str] = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}
"""What each needs; where it is no dependency, an extra of heliograph has the logger's name."""


def require_loggers(loggers: Sequence[Logger]) -> None:
    """Refuse a logger that cannot write.

    Raises:
        InputError: Its package is not installed.
    """
    for name in loggers:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise InputError(
                f"loggers: {name} needs the package {PACKAGES[name]}, which is not installed; "
                f"pip install 'heliograph[{name}]', or take {name} out of the search file"
            )


def write_trial(logger: Logger, run: Path, asked: Asked, finished: Finished) -> None:
    """Write a trial that has ended; a full disk or a server that is away does not end a search."""
    with suppress(OSError):
        if logger == "tensorboard":
            from heliograph_tune.tensorboard_log import write_events

            write_events(run, asked, finished)
        else:
            from heliograph_tune.mlflow_log import write_run

            write_run(run, asked, finished)
