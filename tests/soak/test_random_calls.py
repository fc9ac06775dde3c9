"""The storm of tests/api/test_random_calls.py, long enough to reach rare states."""

import os
import random

import psutil

from fuzz.calls import Storm
from installation import Installation

CALLS = int(os.environ.get("CALLS") or 50_000)
_MAX_GROWTH_BYTES = 256 << 20


def test_storm(darkroom: Installation) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={seed}")
    assert darkroom.process is not None and darkroom.channel is not None
    server = psutil.Process(darkroom.process.pid)
    storm = Storm(darkroom.channel, seed)
    storm.blow(500)
    before_bytes = server.memory_info().rss
    storm.blow(CALLS)
    print(storm.codes)
    assert storm.defects == [], f"again with SEED={seed}"
    assert "Traceback" not in darkroom.log_text()
    assert server.memory_info().rss - before_bytes < _MAX_GROWTH_BYTES
