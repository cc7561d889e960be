"""Rows -> `results.json` for machines and `results.md` for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from figures import Row, number

HEADING = """# Results

Taken in one run of `python benchmarks/run.py` on one machine; what each row means stands in
[benchmarks/README.md](../README.md). Three significant digits; `results.json` has them all.
"""


def write_report(out: Path, facts: Mapping[str, object], rows: Sequence[Row]) -> None:
    """Write both files.

    Args:
        out: Folder; it is made if it is not there.
        facts: When, where and how the measurements were taken.
        rows: In the order in which they are to stand.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = {"facts": dict(facts), "rows": [asdict(row) for row in rows]}
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "results.md").write_text(markdown(facts, rows))


def markdown(facts: Mapping[str, object], rows: Sequence[Row]) -> str:
    """Write the facts as a list and every group as a table."""
    listed = "\n".join(f"- {name}: {_plain(value)}" for name, value in facts.items())
    groups = list(dict.fromkeys(row.group for row in rows))
    tables = [table(group, [row for row in rows if row.group == group]) for group in groups]
    return "\n".join([HEADING, listed, "", *tables])


def table(group: str, rows: Sequence[Row]) -> str:
    """Write a group as a Markdown table, a column a figure, the notes last if there are any."""
    columns = list(dict.fromkeys(name for row in rows for name in row.figures))
    notes = ["note"] if any(row.note for row in rows) else []
    lines = [
        _line(["", *columns, *notes]),
        _line(["---", *("---:" for _ in columns), *("---" for _ in notes)]),
    ]
    for row in rows:
        cells = [number(row.figures[name]) if name in row.figures else "" for name in columns]
        lines.append(_line([row.name, *cells, *(row.note for _ in notes)]))
    return "\n".join([f"## {group[0].upper()}{group[1:]}", "", *lines, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return str(value)
