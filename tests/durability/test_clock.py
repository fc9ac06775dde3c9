"""The wall clock steps back and forth by an hour under a running installation: leases do not care.

PostgreSQL dates leases by its own clock; its steps are tested in `store/test_postgres.py`.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom_pb.yandex.cloud.compute.v1 import image_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2
from installation import PATIENCE_SECONDS, Installation, installation, until
from object_server import ObjectServer

HOUR_SECONDS = 3600
_BEATS = 6
"""Heartbeats that a step has to be survived for; a lease is five."""


class SteppingClock:
    """The wall clock of the processes of one installation."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self.set(0)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "TEST_CLOCK_OFFSET_FILE": str(self._file),
            "PYTHONPATH": str(Path(__file__).with_name("stepping")),
        }

    def set(self, offset_seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(offset_seconds))
        new.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> SteppingClock:
    return SteppingClock(tmp_path)


@pytest.fixture
def darkroom(tmp_path: Path, source: ObjectServer, clock: SteppingClock) -> Iterator[Installation]:
    with installation(
        tmp_path, source.origin, DARKROOM_LEASE_SECONDS="1", **clock.settings
    ) as running:
        yield running


def outcomes(darkroom: Installation) -> list[tuple[int, str]]:
    """Fence and outcome of every attempt that came to an end."""
    lines = darkroom.log_lines()
    return [(line["fence"], line["outcome"]) for line in lines if line["event"] == "operation left"]


def age_seconds(newer: operation_pb2.Operation, older: operation_pb2.Operation) -> int:
    return newer.created_at.seconds - older.created_at.seconds


def beats(darkroom: Installation, operation_id: str) -> int:
    """How often the operation's lease was taken or renewed."""
    path = darkroom.data / "metadata.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        sql = "SELECT beat FROM operation WHERE id = ?"
        return int(database.execute(sql, (operation_id,)).fetchone()[0])


def wait_for_beats(darkroom: Installation, operation_id: str) -> None:
    """For longer than a lease, during which it has to be renewed."""
    after = beats(darkroom, operation_id) + _BEATS
    until(lambda: beats(darkroom, operation_id) > after, "the lease to be renewed")


def test_a_step_of_the_clock_takes_no_lease_away(
    darkroom: Installation, source: ObjectServer, disk: Path, clock: SteppingClock
) -> None:
    source.bytes_per_second = 200_000
    created = darkroom.create(source.url(disk.name))
    until(darkroom.scratch, "the import to begin")
    others = {}
    for offset_seconds in (HOUR_SECONDS, -HOUR_SECONDS):
        clock.set(offset_seconds)
        others[offset_seconds] = other = darkroom.create(source.url(disk.name))
        assert darkroom.cancel(other.id).done
        wait_for_beats(darkroom, created.id)
    clock.set(0)
    for offset_seconds, other in others.items():
        assert abs(age_seconds(other, created) - offset_seconds) < PATIENCE_SECONDS
    source.bytes_per_second = 0
    image = image_pb2.Image()
    operation = darkroom.done(created.id)
    assert operation.response.Unpack(image), operation
    until(lambda: outcomes(darkroom), "the attempt's end")
    assert outcomes(darkroom) == [(1, "succeeded")]
