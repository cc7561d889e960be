"""`trials.parquet`: one row a trial, from the journal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heliograph.config import HeliographConfig
from heliograph.config_file import ConfigError
from heliograph_tune.records import Record
from heliograph_tune.setting import with_settings

TRIALS_FILE = "trials.parquet"

STEP = pa.struct([("step", pa.int64()), ("values", pa.map_(pa.string(), pa.float64()))])
TRIALS = pa.schema(
    [
        ("number", pa.int64()),
        ("phase", pa.string()),
        ("repeats", pa.int64()),
        ("state", pa.string()),
        ("seed", pa.int64()),
        ("settings", pa.string()),
        ("config", pa.string()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("steps", pa.list_(STEP)),
        ("seconds", pa.float64()),
        ("cpus", pa.float64()),
        ("gpus", pa.float64()),
        ("node", pa.string()),
        ("error", pa.string()),
        ("version", pa.string()),
        ("ended", pa.string()),
    ]
)
"""`settings` and `config` (the full configuration) are JSON."""


def write_trials(record: Record, config: HeliographConfig, folder: Path) -> None:
    """Write the finished trials so that a reader sees the old file or the whole new one."""
    rows = [_row(record, number, config) for number in sorted(record.finished)]
    temporary = folder / f".{TRIALS_FILE}.{os.getpid()}"
    pq.write_table(pa.Table.from_pylist(rows, TRIALS), temporary)
    temporary.replace(folder / TRIALS_FILE)


def _row(record: Record, number: int, config: HeliographConfig) -> dict[str, Any]:
    asked, finished = record.asked[number], record.finished[number]
    row = finished.model_dump(exclude={"event", "spent_s", "steps", "metrics"})
    return row | {
        "phase": asked.phase,
        "repeats": asked.repeats,
        "seed": asked.seed,
        "settings": json.dumps(asked.settings),
        "config": _full(config, asked.settings | {"seed": asked.seed}),
        "metrics": list(finished.metrics.items()),
        "steps": [
            {"step": step.step, "values": list(step.values.items())} for step in finished.steps
        ],
    }


def _full(config: HeliographConfig, settings: dict[str, Any]) -> str | None:
    """Return the whole configuration; None where the settings do not go together."""
    try:
        return with_settings(config, settings).model_dump_json()
    except ConfigError:  # recorded as a failed trial, with the reason
        return None
