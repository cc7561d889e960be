"""Charts of many trials as inline SVG, beside those of `heliograph.report.charts`.

Knows numbers and names, not what a trial is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from heliograph.report.charts import WIDTH, nice_ticks, short, svg, text_at

HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 20, 44
"""Margins."""


@dataclass(frozen=True)
class Line:
    """A line through points."""

    name: str
    points: Sequence[tuple[float, float]]
    marked: bool = False
    """Drawn in front of all others, in the colour of the winner."""


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates."""

    name: str
    ticks: Sequence[tuple[float, str]]
    """Height in [0, 1] -> what stands there."""


def lines(curves: Sequence[Line], label: str, across: str, up: str) -> Markup:
    """Draw lines in one chart.

    Args:
        curves: With one point or more each.
        label: What the chart shows, for those who cannot see it.
        across: What the horizontal axis is.
        up: What the vertical axis is.
    """
    frame = _Frame([point for curve in curves for point in curve.points])
    ordered = sorted(curves, key=lambda curve: curve.marked)
    parts = frame.axes(across, up) + [_line(curve, frame) for curve in ordered]
    return svg(WIDTH, HEIGHT, label, parts)


def dots(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    front: Sequence[int],
    label: str,
    across: str,
    up: str,
) -> Markup:
    """Draw points, and a line through some of them.

    Args:
        points: One at least.
        names: Of each point.
        front: Places of the points on the line, from left to right.
        label: What the chart shows, for those who cannot see it.
        across: What the horizontal axis is.
        up: What the vertical axis is.
    """
    frame = _Frame(points)
    parts = frame.axes(across, up)
    if front:
        parts.append(_line(Line("front", [points[place] for place in front], True), frame))
    for place, (point, name) in enumerate(zip(points, names, strict=True)):
        x, y = frame.at(point)
        parts.append(
            Markup('<g><title>{3}</title><circle class="{0}" cx="{1}" cy="{2}" r="4"/></g>').format(
                "mark" if place in front else "dot", short(x), short(y), name
            )
        )
    return svg(WIDTH, HEIGHT, label, parts)


def parallel(axes: Sequence[Axis], rows: Sequence[Line], label: str) -> Markup:
    """Draw each row as a line over all axes.

    Args:
        axes: From left to right, two or more.
        rows: Points are (place of the axis, height in [0, 1]); an axis may be left out.
        label: What the chart shows, for those who cannot see it.
    """
    step = (WIDTH - 2 * LEFT) / max(len(axes) - 1, 1)
    height = HEIGHT - TOP - 2 * BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + point[0] * step, TOP + BOTTOM + (1 - point[1]) * height

    parts = [_polyline(row, at) for row in sorted(rows, key=lambda row: row.marked)]
    for place, axis in enumerate(axes):
        x, bottom = at((place, 0))
        parts.append(
            Markup('<path class="axis" d="M{} {}V{}"/>').format(
                short(x), short(at((place, 1))[1]), short(bottom)
            )
        )
        parts.append(text_at(x, TOP + 18 * (place % 2), axis.name, "middle"))
        parts += [
            text_at(x + 5, at((place, tick))[1] + 4, name, "tick") for tick, name in axis.ticks
        ]
    return svg(WIDTH, HEIGHT, label, parts)


class _Frame:
    """Where numbers lie in a chart."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self.across = nice_ticks(min(x for x, _ in points), max(x for x, _ in points))
        self.up = nice_ticks(min(y for _, y in points), max(y for _, y in points))

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return where a point is drawn."""
        x = (point[0] - self.across[0]) / (self.across[-1] - self.across[0])
        y = (point[1] - self.up[0]) / (self.up[-1] - self.up[0])
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + x * width, TOP + (1 - y) * height

    def axes(self, across: str, up: str) -> list[Markup]:
        """Draw the grid and what its lines are."""
        parts = [text_at(LEFT, 12, up, "chart-title")]
        parts.append(text_at((LEFT + WIDTH) / 2, HEIGHT - 6, across, "tick middle"))
        for tick in self.up:
            y = self.at((self.across[0], tick))[1]
            grid = Markup('<path class="grid" d="M{} {}H{}"/>')
            parts.append(grid.format(LEFT, short(y), WIDTH - RIGHT))
            parts.append(text_at(LEFT - 6, y + 4, f"{tick:g}", "tick end"))
        for tick in self.across:
            x = self.at((tick, self.up[0]))[0]
            parts.append(text_at(x, HEIGHT - BOTTOM + 18, f"{tick:g}", "tick middle"))
        return parts


def _line(curve: Line, frame: _Frame) -> Markup:
    if len(curve.points) > 1:
        return _polyline(curve, frame.at)
    x, y = frame.at(curve.points[0])
    return Markup('<g><title>{3}</title><circle class="{0}" cx="{1}" cy="{2}" r="3"/></g>').format(
        "mark" if curve.marked else "dot", short(x), short(y), curve.name
    )


def _polyline(curve: Line, at: Callable[[tuple[float, float]], tuple[float, float]]) -> Markup:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, curve.points))
    return Markup('<g><title>{2}</title><polyline class="{0}" points="{1}"/></g>').format(
        "line" if curve.marked else "thin", points, curve.name
    )


def height_of(value: float, low: float, high: float, log: bool) -> float:
    """Return how high in [0, 1] a value lies between two."""
    if high <= low:
        return 0.5
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
