"""Memory that was freed is kept for what comes next."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from lavra.core.machine import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(6 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(6 << 20)  # 48 MiB, more than what the library would keep by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_blocks_are_not_faulted_in_again():
    pages = (48 << 20) // resource.getpagesize()
    assert page_faults("keep") < pages
    assert page_faults("leave") > page_faults("keep")


HELD = """
import numpy as np, psutil
from lavra.core.machine import give_back_freed_memory, keep_freed_memory
assert keep_freed_memory()
blocks = [np.ones(6 << 20) for _ in range(8)]
del blocks
held = psutil.Process().memory_info().rss
give_back_freed_memory()
print(held - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_is_kept_can_be_given_back():
    given = int(subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout)
    assert given > 300 << 20
