"""What tensors leave behind goes back to the system."""

from __future__ import annotations

import platform

import numpy as np
import psutil
import pytest

from heliograph.native_memory import give_back

MIB = 2**20


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim to be called"
)
def test_what_lies_free_between_what_is_used_goes_back() -> None:
    blocks = [np.ones(8192) for _ in range(4096)]  # 64 KiB each: not worth a mapping of its own
    used = blocks[::128]
    del blocks
    before = psutil.Process().memory_info().rss
    give_back()
    assert before - psutil.Process().memory_info().rss > 150 * MIB
    assert all(block.sum() == 8192 for block in used)
