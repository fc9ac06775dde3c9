"""The supervisor with children that a test scripts."""

import os
import queue
import resource
import sys
from collections.abc import Iterator

import pytest

from darkroom.worker.supervisor import Supervisor

PATIENCE_SECONDS = 10.0

CHILD = """
import os, sys
os.write(int(sys.argv[-1]), b".")
while os.read(0, 1024):
    pass
"""
"""Beats once and ends with its parent."""


@pytest.fixture
def crowded() -> Iterator[None]:
    """Every file descriptor that select() could handle is in use, as by many connections."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < 1100:
        held.append(os.dup(held[0]))
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("crowded")
def test_workers_are_watched_and_replaced_beside_a_thousand_connections() -> None:
    died: queue.Queue[str] = queue.Queue()
    supervisor = Supervisor(
        1, [sys.executable, "-c", CHILD], {}, silence_seconds=0.5, died=died.put
    )
    supervisor.start()
    try:
        # Each is silent after its first beat, so it is killed; that takes all of the watching.
        first = died.get(timeout=PATIENCE_SECONDS)
        second = died.get(timeout=PATIENCE_SECONDS)
    finally:
        supervisor.stop(PATIENCE_SECONDS)
    assert first != second


def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path: "os.PathLike[str]") -> None:
    died: queue.Queue[str] = queue.Queue()
    command = os.path.join(tmp_path, "later")
    supervisor = Supervisor(1, [command], {}, silence_seconds=5.0, died=died.put)
    supervisor.start()
    try:
        with open(f"{command}.part", "w", encoding="ascii") as script:
            script.write("#!/bin/sh\nexit 0\n")
        os.chmod(f"{command}.part", 0o700)
        os.rename(f"{command}.part", command)
        assert died.get(timeout=PATIENCE_SECONDS)
    finally:
        supervisor.stop(PATIENCE_SECONDS)
