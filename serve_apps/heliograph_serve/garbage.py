"""When Python looks for garbage that reference counting leaves.

What a request makes goes with its last reference. The collector looks for cycles among the young
objects each time that there are 700 more of them: under load many times a second, and each time it
finds the requests that are under way, and nothing to collect.
"""

from __future__ import annotations

import gc

YOUNG = 20_000
"""Objects that are new since the collector last looked, before it looks again."""


def collect_seldom() -> None:
    """Let this process collect as often as keeps its memory flat, and no oftener."""
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, old)
