"""A training run of the item LM: its epochs, its best weights, and the checkpoint on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from heliograph.models.item_lm import ItemLM, ItemLMNetwork
from heliograph.workspace import InputError, write_json

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    number: int
    loss: float
    """Mean cross-entropy of the next item, nats."""

    validation_ndcg: float
    seconds: float


def quality(epoch: Epoch) -> tuple[float, float]:
    """Order epochs; the loss decides among equals, as where there is nobody to validate on."""
    return epoch.validation_ndcg, -epoch.loss


class Run:
    """The state of a training run, in memory and in its checkpoint folder.

    Tensors are kept as safetensors and numbers as JSON. `run.json` is written last and names the
    tensors that belong to it, so a kill at any moment leaves one whole checkpoint.
    """

    def __init__(
        self, network: ItemLMNetwork, optimizer: torch.optim.Optimizer, folder: Path, task: str
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.folder = folder
        self.task = task
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    def finish(self, epoch: Epoch) -> None:
        """Note an epoch and write the checkpoint."""
        if all(quality(epoch) > quality(earlier) for earlier in self.epochs):
            self.best = {name: t.detach().clone() for name, t in self.network.state_dict().items()}
        self.epochs.append(epoch)
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = self.folder / f"epoch-{epoch.number:04d}.safetensors"
        save_file(self._tensors(), tensors)
        record = {
            "task": self.task,
            "tensors": tensors.name,
            "epochs": [asdict(entry) for entry in self.epochs],
        }
        write_json(self.folder / RUN_FILE, record)
        for path in self.folder.glob("epoch-*"):
            if path != tensors:
                path.unlink()

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one of the same task.

        Raises:
            InputError: Its tensors are missing or damaged.
        """
        if not (self.folder / RUN_FILE).is_file():
            return
        record = json.loads((self.folder / RUN_FILE).read_text())
        if record["task"] != self.task:
            return
        path = self.folder / record["tensors"]
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"checkpoint {path} is damaged ({error}); "
                f"delete {self.folder} to train from the beginning"
            ) from error
        self.epochs = [Epoch(**entry) for entry in record["epochs"]]
        parts: dict[str, dict[str, Tensor]] = {"last": {}, "best": {}, "adam": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        self.network.load_state_dict(parts["last"])
        self.best = parts["best"]
        state = self.optimizer.state_dict()
        state["state"] = {}
        for key, tensor in parts["adam"].items():
            index, _, name = key.partition("/")
            state["state"].setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict(state)

    def best_model(self) -> ItemLM:
        """Return the model of the best epoch."""
        self.network.load_state_dict(self.best)
        self.network.eval()
        with torch.no_grad():
            return ItemLM(self.network, self.network.embeddings().detach())

    def _tensors(self) -> dict[str, Tensor]:
        adam = self.optimizer.state_dict()["state"]
        return (
            {f"last/{name}": tensor.clone() for name, tensor in self.network.state_dict().items()}
            | {f"best/{name}": tensor.clone() for name, tensor in self.best.items()}
            | {
                f"adam/{index}/{name}": tensor.clone()
                for index, entries in adam.items()
                for name, tensor in entries.items()
            }
        )
