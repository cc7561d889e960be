"""By what trials are sorted: their first objective, or how well they keep a goal."""

from __future__ import annotations

from collections.abc import Mapping

from heliograph_tune.search_file import SearchConfig, is_minimised

DIGITS = 3
"""Under a goal, trials whose first objective is the same to so many digits are told apart by the
next one: among hundreds of users, the fourth digit of an NDCG is luck."""


def deciding(settings: SearchConfig) -> tuple[str, ...]:
    """Return the objectives that trials are sorted by: under a goal all of them, else the first."""
    return settings.objectives if settings.goal else settings.objectives[:1]


def is_judged(settings: SearchConfig, metrics: Mapping[str, float]) -> bool:
    """Tell whether a trial came far enough to be sorted."""
    return all(name in metrics for name in deciding(settings))


def merit(settings: SearchConfig, metrics: Mapping[str, float]) -> tuple[float, ...]:
    """Return what trials are sorted by, the least first.

    With a goal those that keep it come first, then those that miss it by less; among those that
    keep it the first objective decides, then the others in their order.
    """
    losses = [
        metrics[name] if is_minimised(name) else -metrics[name] for name in deciding(settings)
    ]
    if not settings.goal:
        return tuple(losses)
    return (missed_by(settings.goal, metrics), round(losses[0], DIGITS), *losses[1:])


def keeps(goal: Mapping[str, float], metrics: Mapping[str, float]) -> bool:
    """Tell whether every bound is kept."""
    return missed_by(goal, metrics) == 0


def missed_by(goal: Mapping[str, float], metrics: Mapping[str, float]) -> float:
    """Return by which shares of the bounds the metrics miss them, added up; 0: they keep all."""
    return sum(
        max(0.0, metrics[name] / bound - 1 if is_minimised(name) else 1 - metrics[name] / bound)
        for name, bound in goal.items()
    )


def said(goal: Mapping[str, float]) -> str:
    """Say a goal in words."""
    return " and ".join(
        f"{name} of {'at most' if is_minimised(name) else 'at least'} {bound:g}"
        for name, bound in goal.items()
    )
