"""While one client misbehaves, another is served, and afterwards nothing is left of it."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2
from installation import Installation, until
from soak.abusers import WAYS

SECONDS = 5.0
_MAX_GROWTH_BYTES = 256 << 20
_SLACK = 8
"""Descriptors and threads that may come and go for other reasons."""


def _calls(darkroom: Installation, seconds: float) -> list[float]:
    """Milliseconds that each of the good client's calls took; it has never to try again."""
    request = image_service_pb2.ListImagesRequest(folder_id="folder")
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        darkroom.images.List(request, timeout=10)
        took.append((time.perf_counter() - started) * 1000)
        time.sleep(0.005)
    return took


@pytest.mark.parametrize("way", WAYS)
def test_another_client_is_served(darkroom: Installation, way: str) -> None:
    assert darkroom.process is not None
    server = psutil.Process(darkroom.process.pid)
    before = _calls(darkroom, 2.0)
    descriptors, threads = server.num_fds(), server.num_threads()
    resident_bytes = server.memory_info().rss
    arguments = [str(Path(__file__).with_name("abusers.py")), way, darkroom.address, str(SECONDS)]
    abuser = subprocess.Popen([sys.executable, *arguments])
    try:
        during = _calls(darkroom, SECONDS)
        highest_bytes = server.memory_info().rss
        assert abuser.wait(60) == 0
    finally:
        abuser.kill()
        abuser.wait()
    ratio = statistics.median(during) / statistics.median(before)
    print(
        f"{way}: median {statistics.median(before):.1f} -> {statistics.median(during):.1f} ms "
        f"({ratio:.1f} times), slowest {max(during):.0f} ms, "
        f"memory {resident_bytes >> 20} -> {highest_bytes >> 20} MiB"
    )
    assert highest_bytes - resident_bytes < _MAX_GROWTH_BYTES
    until(lambda: server.num_fds() <= descriptors + _SLACK, "its connections to be closed")
    until(lambda: server.num_threads() <= max(threads + _SLACK, 600), "its threads to be idle")
    assert _calls(darkroom, 0.5)
    assert "Traceback" not in darkroom.log_text()
