"""Which code ran a trial."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import heliograph
import heliograph_tune
from heliograph.workspace import digest_of, hash_file


@cache
def code_version() -> str:
    """Return the version and a hash of the sources, which tells uncommitted changes apart."""
    files = [
        file
        for package in (heliograph, heliograph_tune)
        for file in sorted(Path(str(package.__file__)).parent.rglob("*.py"))
    ]
    return f"{heliograph.__version__}+{digest_of(*map(hash_file, files))[:12]}"
