"""`make demo` as a new user runs it: in a fresh clone, from nothing, and once more.

    python benchmarks/demo.py [--out benchmarks/results/demo.json]

The first run makes the environment, trains and serves; the second finds everything unchanged.
Memory is that of all processes of a run, shared pages counted once, looked at every few seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from heliograph.workspace import write_json
from machine import describe_machine
from memory import tree_gib
from suite import HERE

LOOK_EVERY_S = 3.0
TRAINED = ("models/item_lm", "refit/models/item_lm")
"""Stages in which the item LM learns: to be judged, and once more to be served."""


@dataclass(frozen=True)
class DemoRun:
    """What one `make demo ONCE=1` took."""

    seconds: float
    peak_gib: float


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "demo.json")
    arguments = parser.parse_args()
    facts = describe_machine()
    with tempfile.TemporaryDirectory(prefix="heliograph-demo-") as folder:
        clone = Path(folder) / "heliograph"
        subprocess.run(["git", "clone", "--quiet", HERE.parent, clone], check=True)
        first, second = run_demo(clone), run_demo(clone)
        trained = {stage: seconds_of(clone, stage) for stage in TRAINED}
    found = {
        "from_nothing_s": first.seconds,
        "from_nothing_peak_gib": first.peak_gib,
        "again_s": second.seconds,
        "again_peak_gib": second.peak_gib,
        "trained_s": trained,
    }
    print(json.dumps(found, indent=1))
    write_json(arguments.out, facts | found)


def run_demo(clone: Path) -> DemoRun:
    """Run the demo until it has printed recommendations and stopped.

    Raises:
        RuntimeError: It failed.
    """
    began = time.perf_counter()
    peak = 0.0
    with psutil.Popen(["make", "demo", "ONCE=1"], cwd=clone) as process:
        while process.poll() is None:
            peak = max(peak, tree_gib(process))
            time.sleep(LOOK_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"make demo ended with {process.returncode}; see what it printed")
    return DemoRun(time.perf_counter() - began, peak)


def seconds_of(clone: Path, stage: str) -> float:
    """Return what a stage of the demo took, as it has written down itself."""
    folder = clone / "examples" / "movielens" / "workspace" / stage
    return float(json.loads((folder / "stage.json").read_text())["seconds"])


if __name__ == "__main__":
    main()
