"""Trials for TensorBoard, by option: event files of each trial, written when it has ended."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from heliograph_tune.records import Asked, Finished

FOLDER = "tensorboard"
"""Of a run: what `tensorboard --logdir` is to be given."""


def write_events(run: Path, asked: Asked, finished: Finished) -> None:
    """Write the curves of a trial, and its settings beside its metrics."""
    settings = {
        path: value if isinstance(value, int | float) else str(value)
        for path, value in asked.settings.items()
    }
    with SummaryWriter(str(run / FOLDER / f"{asked.number:05d}")) as writer:
        for step in finished.steps:
            for name, value in step.values.items():
                writer.add_scalar(name, value, step.step)
        if finished.metrics:
            writer.add_hparams(settings, finished.metrics, name="settings")
