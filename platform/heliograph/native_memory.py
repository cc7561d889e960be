"""Memory that libraries below Python keep after tensors are gone: a bound for it, and its return.

Batches differ in shape. oneDNN keeps a compiled kernel for each shape, up to 1024; and the C
library keeps what tensors of every shape have left behind, in heaps of each thread. A process
that trains one model after the other came to 9 GB so, of which it used less than one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress


def bound_kernels() -> None:
    """Have oneDNN keep 256 compiled kernels: few are used again. Call it before the first one."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")


def give_back() -> None:
    """Return what is free to the system; it takes milliseconds."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # a C library other than glibc has no such function
            ctypes.CDLL(None).malloc_trim(0)
