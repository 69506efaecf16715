from __future__ import annotations

import subprocess
import sys

ABORTS_AT_EXIT = """
import atexit, os
from meshwright.executor.train.supervision import leave_process

atexit.register(os.abort)  # as threads that are still at work do
print("said before", end="")
leave_process(2)
"""


def test_a_process_leaves_with_its_status_whatever_would_abort_it() -> None:
    done = subprocess.run([sys.executable, "-c", ABORTS_AT_EXIT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "said before")
