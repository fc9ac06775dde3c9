"""First on the path of a server's processes: their wall clock steps as a file says, in seconds.

The monotonic clock goes on as it is, which is what a step of the wall clock looks like.
"""

import os
import time
from pathlib import Path

_OFFSET = Path(os.environ["TEST_CLOCK_OFFSET_FILE"])
_time, _time_ns = time.time, time.time_ns


def _offset_seconds() -> int:
    return int(_OFFSET.read_text() or 0)


time.time = lambda: _time() + _offset_seconds()
time.time_ns = lambda: _time_ns() + _offset_seconds() * 10**9
