"""Trials for MLflow, by option: a run for each trial, written when it has ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from heliograph_tune.records import Asked, Finished

FOLDER = "mlflow"
"""Of a run: where experiments are, unless MLFLOW_TRACKING_URI names a server."""

LONGEST = 500
"""Characters of a setting; every store of MLflow takes so many."""


def write_run(run: Path, asked: Asked, finished: Finished) -> None:
    """Write the settings of a trial, its curves, and one step later what it came to.

    The experiment has the name of the run's folder, and the trial that of its number. A trial that
    failed or was stopped is one that failed or was killed to MLflow too.

    Raises:
        OSError: The store does not take it.
    """
    try:
        _write(run, asked, finished)
    except MlflowException as error:
        raise OSError(f"MLflow does not take trial {asked.number}: {error}") from error


def _write(run: Path, asked: Asked, finished: Finished) -> None:
    client = MlflowClient(tracking_uri=_store(run))
    known = client.get_experiment_by_name(run.name)
    experiment = known.experiment_id if known else client.create_experiment(run.name)
    written = client.create_run(experiment, run_name=f"trial {asked.number}").info.run_id
    now = int(time.time() * 1000)
    metrics = [
        Metric(_name(name), value, now, step.step)
        for step in finished.steps
        for name, value in step.values.items()
    ]
    last = finished.steps[-1].step + 1 if finished.steps else 0
    metrics += [Metric(_name(name), value, now, last) for name, value in finished.metrics.items()]
    settings = asked.settings | {"seed": asked.seed}
    params = [Param(path, str(value)[:LONGEST]) for path, value in settings.items()]
    client.log_batch(written, metrics=metrics, params=params)
    ends = {"failed": "FAILED", "stopped": "KILLED", "cut": "KILLED"}
    client.set_terminated(written, ends.get(finished.state, "FINISHED"))


def _store(run: Path) -> str:
    if named := os.environ.get("MLFLOW_TRACKING_URI"):
        return named
    (run / FOLDER).mkdir(exist_ok=True)
    return f"sqlite:///{(run / FOLDER).resolve()}/mlflow.db"


def _name(metric: str) -> str:
    """Return the name that MLflow takes: it refuses the sign in `ndcg@10`."""
    return metric.replace("@", "_at_")
