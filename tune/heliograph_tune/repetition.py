"""What judging the best once more takes: other seeds, other users, or nothing at all."""

from __future__ import annotations

from heliograph_tune.search_file import Search

WEIGHTS = "candidates.weights"

WITHOUT_LUCK = ("text", "transitions")
"""Models that are the same whatever the seed."""


def seeds(search: Search) -> int:
    """Return with how many other seeds the best are run again; 0: with none."""
    if search.settings.repeat.best == 0 or is_without_luck(search):
        return 0
    return 1 if draws_weights(search) else search.settings.repeat.seeds


def runs(search: Search) -> int:
    """Return how many runs that makes, of the best and of the configuration as it stands."""
    return (search.settings.repeat.best + 1) * seeds(search)


def draws_weights(search: Search) -> bool:
    """Tell whether weights of the blend are drawn, so that the search itself is what fits them.

    Then trials are judged by one half of the users, and the best once more by the other half.
    """
    return any(
        path == WEIGHTS or path.startswith(f"{WEIGHTS}.") for path in search.space.settings_drawn
    )


def is_without_luck(search: Search) -> bool:
    """Tell whether a trial comes to the same with every seed: nothing is random in it."""
    match search.settings.search:
        case "pipeline":
            return search.config.candidates.weights is not None and not draws_weights(search)
        case model:
            return model in WITHOUT_LUCK and search.config.evaluation.max_users is None


def column(search: Search) -> str:
    """Return what stands above the scores of the runs that decide."""
    return "by the other half" if draws_weights(search) else "with other seeds"


def told(search: Search) -> str:
    """Say how the best were judged once more, and why."""
    if is_without_luck(search):
        return "Nothing in these trials depends on a seed: they are not run again."
    if seeds(search) == 0:
        return "None was run again, so the best is partly the luckiest."
    if draws_weights(search):
        return (
            "The search has fitted weights to one half of the users; the best, and the "
            "configuration as it stands, are judged again by the other half, which decides."
        )
    return (
        "The best of many trials is partly the luckiest: the best, and the configuration as it "
        "stands, are run again with other seeds, and the mean of these runs decides."
    )
