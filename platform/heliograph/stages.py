"""Runs the stages of one build and remembers what each came to. Knows no stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from heliograph.workspace import StageResult, run_stage


class Report(Protocol):
    """Is told what happens while stages run."""

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage of `total` steps; None if that is not known."""
        ...

    def advance(self, steps: int, note: str = "") -> None:
        """Note steps of the current stage as done."""
        ...

    def finish(self, result: StageResult) -> None:
        """End the current stage."""
        ...


class Stages:
    """The stages of one workspace that have run."""

    def __init__(self, workspace: Path, report: Report) -> None:
        self.workspace = workspace
        self.report = report
        self.results: dict[str, StageResult] = {}

    def run(
        self,
        name: str,
        settings: Mapping[str, BaseModel | int | None],
        inputs: Mapping[str, str],
        work: Callable[[Path], Mapping[str, float]],
        total: int | None = None,
    ) -> StageResult:
        """Run a stage unless its result is there; `work` and the rest are as in `run_stage`.

        Args:
            name: Of the stage.
            settings: What the result depends on besides the inputs.
            inputs: Digest of everything read, by name.
            work: Writes files into the folder it is given and returns counts to report.
            total: Steps that `work` reports.
        """
        self.report.start(name, total)
        result = run_stage(self.workspace, name, settings, inputs, work)
        self.results[name] = result
        self.report.finish(result)
        return result

    def digests(self, *names: str) -> dict[str, str]:
        """Return the digests of stages that have run, as inputs of another."""
        return {name: self.results[name].digest for name in names}

    def folder(self, name: str) -> Path:
        """Return the folder of a stage that has run."""
        return self.results[name].folder
