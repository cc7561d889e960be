"""A training run of the item LM: its epochs, its best weights, and the checkpoint on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from heliograph.config import TrainChange
from heliograph.models.item_lm import ItemLM, ItemLMNetwork
from heliograph.models.weight_average import WeightAverage
from heliograph.workspace import InputError, digest_of, write_json

RUN_FILE = "run.json"


class DivergedError(InputError):
    """Training whose loss or gradient is no finite number; the message says what to change."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    number: int
    loss: float
    """Mean cross-entropy of the next item, nats; of what is sampled, where negatives are."""

    validation_ndcg: float | None
    """NDCG@10 of the averaged weights; None in a run without validation, or with nobody in it."""

    seconds: float


def best_epoch(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch of the highest NDCG, among equals that of the least loss.

    Without validation it is the last one.
    """
    return max(epochs, key=_quality)


def _quality(epoch: Epoch) -> tuple[float, float]:
    if epoch.validation_ndcg is None:
        return epoch.number, 0.0
    return epoch.validation_ndcg, -epoch.loss


@dataclass(frozen=True)
class Course:
    """What decides the course of a run, epoch by epoch."""

    task: str
    """Hash of all that holds from the first epoch to the last."""

    schedule: tuple[TrainChange, ...] = ()

    def until(self, epoch: int) -> str:
        """Hash what has decided the epochs up to one: changes that come later have not."""
        past = [change.model_dump() for change in self.schedule if change.epoch <= epoch]
        return digest_of(self.task, json.dumps(past)) if past else self.task


def read_record(folder: Path, course: Course) -> dict[str, Any] | None:
    """Return what a checkpoint says; None if there is none, or one of another past."""
    if not has_run(folder):
        return None
    record: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
    return record if record["task"] == course.until(len(record["epochs"])) else None


def has_run(folder: Path) -> bool:
    """Tell whether a folder holds a checkpoint."""
    return (folder / RUN_FILE).is_file()


def copy_run(source: Path, target: Path) -> None:
    """Copy a checkpoint to a folder that has none, `run.json` last, as `Run.write` does."""
    target.mkdir(parents=True, exist_ok=True)
    record = json.loads((source / RUN_FILE).read_text())
    shutil.copyfile(source / record["tensors"], target / record["tensors"])
    write_json(target / RUN_FILE, record)


def epochs_of(record: Mapping[str, Any] | None) -> list[Epoch]:
    """Return the epochs of a checkpoint's record."""
    return [Epoch(**entry) for entry in record["epochs"]] if record else []


class Run:
    """The state of a training run, in memory and in its checkpoint folder.

    Tensors are kept as safetensors and numbers as JSON. `run.json` is written last and names the
    tensors that belong to it, so a kill at any moment leaves one whole checkpoint.
    """

    def __init__(
        self,
        network: ItemLMNetwork,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage,
        folder: Path,
        course: Course,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.average = average
        self.folder = folder
        self.course = course
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    def note(self, epoch: Epoch) -> None:
        """Note an epoch, and its averaged weights if they are the best so far."""
        self.epochs.append(epoch)
        if best_epoch(self.epochs) == epoch:
            averaged = self.average.network.state_dict()
            self.best = {name: tensor.clone() for name, tensor in averaged.items()}

    def write(self) -> None:
        """Write the checkpoint of the last epoch noted."""
        epoch = self.epochs[-1]
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = self.folder / f"epoch-{epoch.number:04d}.safetensors"
        save_file(self._tensors(), tensors)
        record = {
            "task": self.course.until(epoch.number),
            "tensors": tensors.name,
            "steps": self.average.steps,
            "epochs": [asdict(entry) for entry in self.epochs],
        }
        write_json(self.folder / RUN_FILE, record)
        for path in self.folder.glob("epoch-*"):
            if path != tensors:
                path.unlink()

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one of the same past.

        Raises:
            InputError: Its tensors are missing or damaged.
        """
        record = read_record(self.folder, self.course)
        if record is None:
            return
        path = self.folder / record["tensors"]
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"checkpoint {path} is damaged ({error}); "
                f"delete {self.folder} to train from the beginning"
            ) from error
        self.epochs = epochs_of(record)
        parts: dict[str, dict[str, Tensor]] = {
            part: {} for part in ("last", "average", "best", "adam")
        }
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        self.network.load_state_dict(parts["last"])
        self.average.network.load_state_dict(parts["average"])
        self.average.steps = record["steps"]
        self.best = parts["best"]
        state = self.optimizer.state_dict()
        state["state"] = {}
        for key, tensor in parts["adam"].items():
            index, _, name = key.partition("/")
            state["state"].setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict(state)

    def best_model(self) -> ItemLM:
        """Return the model of the best epoch."""
        network = self.average.network
        network.load_state_dict(self.best)
        with torch.no_grad():
            return ItemLM(network, network.embeddings())

    def _tensors(self) -> dict[str, Tensor]:
        parts = {
            "last": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "best": self.best,
        }
        adam = self.optimizer.state_dict()["state"]
        tensors = {
            f"{part}/{name}": tensor
            for part, weights in parts.items()
            for name, tensor in weights.items()
        }
        return tensors | {
            f"adam/{index}/{name}": tensor
            for index, entries in adam.items()
            for name, tensor in entries.items()
        }
