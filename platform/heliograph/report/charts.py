"""Charts as inline SVG, from numbers alone: no script, no file beside, colours from the page's CSS.

Lengths are in units of the view box, in which text is 12 high. Every string is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 720
LABELS = 170
"""Width of the names at the left of bars."""

BAR, GAP = 12, 14
"""Height of a bar; space between groups."""

LONGEST_LABEL = 24

PANEL_WIDTH, PANEL_HEIGHT = 350, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 24, 34
"""Margins of a line chart."""


@dataclass(frozen=True)
class Bar:
    """A value with its interval."""

    value: float
    low: float | None
    high: float | None
    series: str
    """Who has the value; the bar's CSS class is `series-<series>`."""


@dataclass(frozen=True)
class Group:
    """Bars that stand together."""

    name: str
    note: str
    bars: Sequence[Bar]


def grouped_bars(groups: Sequence[Group], label: str) -> Markup:
    """Draw horizontal bars in groups, with whiskers for the intervals.

    Args:
        groups: From top to bottom; values of 0 or more.
        label: What the chart shows, for those who cannot see it.
    """
    ends = [bar.high or bar.value for group in groups for bar in group.bars]
    ticks = nice_ticks(0, max(ends, default=0) or 1)
    scale = (WIDTH - LABELS - 60) / ticks[-1]
    heights = [len(group.bars) * BAR + GAP for group in groups]
    bottom = sum(heights)
    parts = [_tick_of_bars(LABELS + tick * scale, tick, bottom) for tick in ticks]
    top = GAP / 2
    for group, height in zip(groups, heights, strict=True):
        parts.append(_group(group, top, scale))
        top += height
    return svg(WIDTH, bottom + 22, label, parts)


def line_chart(values: Sequence[float], label: str, title: str, marked: int | None) -> Markup:
    """Draw a value by epoch.

    Args:
        values: Of the first epoch on; one at least.
        label: What the chart shows, for those who cannot see it.
        title: Above the chart.
        marked: Place in `values` to be marked, if any.
    """
    ticks = nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    across = (PANEL_WIDTH - LEFT - RIGHT) / max(len(values) - 1, 1)
    down = (PANEL_HEIGHT - TOP - BOTTOM) / (high - low)
    points = [(LEFT + place * across, TOP + (high - y) * down) for place, y in enumerate(values)]
    parts = [text_at(LEFT, 12, title, "chart-title")]
    parts += [_level(TOP + (high - tick) * down, tick) for tick in ticks]
    parts += [
        text_at(LEFT + place * across, PANEL_HEIGHT - BOTTOM + 16, str(place + 1), "tick middle")
        for place in _places(len(values))
    ]
    parts.append(text_at((LEFT + PANEL_WIDTH) / 2, PANEL_HEIGHT - 3, "epoch", "tick middle"))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(Markup('<polyline class="line" points="{}"/>').format(path))
    if marked is not None or len(values) == 1:
        x, y = points[marked or 0]
        parts.append(
            Markup('<circle class="mark" cx="{}" cy="{}" r="4"/>').format(short(x), short(y))
        )
    return svg(PANEL_WIDTH, PANEL_HEIGHT, label, parts)


def score_bar(share: float) -> Markup:
    """Draw one bar of a table; the number beside it says the same, so that it needs no label.

    Args:
        share: Of the full length, in [0, 1].
    """
    bar = '<rect class="series-pipeline" width="{}" height="10" rx="1"/>'
    return Markup(
        f'<svg class="score" viewBox="0 0 100 10" preserveAspectRatio="none" '
        f'aria-hidden="true">{bar}</svg>'
    ).format(short(100 * min(max(share, 0), 1)))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers, two at least, from at most `low` to at least `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * place, 12) for place in range(first, max(last, first + 1) + 1)]


def _group(group: Group, top: float, scale: float) -> Markup:
    middle = top + len(group.bars) * BAR / 2
    name = group.name
    if len(name) > LONGEST_LABEL:
        name = name[: LONGEST_LABEL - 1] + "…"
    parts = [
        text_at(LABELS - 8, middle, name, "end"),
        text_at(LABELS - 8, middle + 13, group.note, "tick end"),
    ]
    for place, bar in enumerate(group.bars):
        parts.append(_bar(bar, group.name, top + place * BAR, scale))
    return Markup("").join(parts)


def _bar(bar: Bar, group: str, top: float, scale: float) -> Markup:
    middle, end = top + BAR / 2, LABELS + bar.value * scale
    told = f"{group}, {bar.series}: {bar.value:.4f}"
    whisker = Markup("")
    if bar.low is not None and bar.high is not None:
        told += f" ({bar.low:.4f} to {bar.high:.4f})"
        low, high = LABELS + bar.low * scale, LABELS + bar.high * scale
        whisker = Markup('<path class="whisker" d="M{} {}H{}"/>').format(
            short(low), short(middle), short(high)
        )
        end = max(end, high)
    shape = Markup(
        '<g><title>{}</title><rect class="series-{}" x="{}" y="{}" width="{}" height="{}"/>{}</g>'
    ).format(
        told, bar.series, LABELS, short(top + 1), short(bar.value * scale), BAR - 2, whisker
    )  # fmt: skip
    return shape + text_at(end + 4, middle + 4, f"{bar.value:.3f}", "tick")


def _tick_of_bars(x: float, tick: float, bottom: float) -> Markup:
    line = Markup('<path class="grid" d="M{} 0V{}"/>').format(short(x), short(bottom))
    return line + text_at(x, bottom + 14, f"{tick:g}", "tick middle")


def _level(y: float, tick: float) -> Markup:
    line = Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, short(y), PANEL_WIDTH - RIGHT)
    return line + text_at(LEFT - 6, y + 4, f"{tick:g}", "tick end")


def _places(count: int, most: int = 8) -> Iterable[int]:
    """Return places of `count` values to be numbered, the first among them."""
    return range(0, count, -(-count // most))


def text_at(x: float, y: float, text: str, classes: str) -> Markup:
    """Place text; its classes are CSS classes of the page."""
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(
        short(x), short(y), classes, text
    )


def svg(width: float, height: float, label: str, parts: Iterable[Markup]) -> Markup:
    """Put parts into a picture.

    Args:
        width: Of the view box.
        height: Of the view box.
        label: What it shows, for those who cannot see it.
        parts: From back to front.
    """
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return (
        head.format(short(width), short(height), label) + Markup("").join(parts) + Markup("</svg>")
    )


def short(value: float) -> str:
    """Write a length."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
