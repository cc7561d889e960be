"""What ends a whole search, being no fault of the trial that comes upon it."""

from __future__ import annotations

from heliograph.workspace import InputError


class SearchEndedError(InputError):
    """No trial can run any more; those that were at work run again with --resume."""
