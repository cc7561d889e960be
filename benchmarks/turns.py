"""The same rows, taken in several turns -> the median of each, and how far apart they were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from figures import HIGHEST, LOWEST, Row


def over_turns(turns: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the median of each row by its first figure; of an even number the lower one.

    A ratio is one of figures of the same turn, and its median that of such ratios.
    """
    found: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for rows in turns:
        for row in rows:
            found[row.group, row.name].append(row)
    return [_median(rows) for rows in found.values()]


def _median(rows: Sequence[Row]) -> Row:
    ordered = sorted(rows, key=_first_figure)
    median = ordered[(len(ordered) - 1) // 2]
    spread = {LOWEST: _first_figure(ordered[0]), HIGHEST: _first_figure(ordered[-1])}
    # a doubt about one of them is one about all
    note = median.note or next((row.note for row in rows if row.note), "")
    return Row(median.group, median.name, median.figures | spread, note)


def _first_figure(row: Row) -> float:
    return next(iter(row.figures.values()))
