"""What the pytest plugin costs a test run: a start, and a reset before each test."""

import statistics
import time
from pathlib import Path

import grpc

from darkroom.testing import Darkroom
from darkroom_pb.yandex.cloud.compute.v1 import disk_service_pb2, disk_service_pb2_grpc

START_SECONDS = 1.5
RESET_SECONDS = 0.1
DISKS = 500


def test_a_start_takes_little(tmp_path: Path) -> None:
    taken = []
    for number in range(7):
        started = time.monotonic()
        with Darkroom(tmp_path / str(number)):
            taken.append(time.monotonic() - started)
    print(f"start: {statistics.median(taken):.2f} s, worst {max(taken):.2f} s")
    assert statistics.median(taken) < START_SECONDS


def test_a_reset_takes_little_whatever_there_was(tmp_path: Path) -> None:
    taken = []
    with Darkroom(tmp_path) as server, grpc.insecure_channel(server.plaintext_endpoint) as channel:
        disks = disk_service_pb2_grpc.DiskServiceStub(channel)
        for _ in range(5):
            for _ in range(DISKS):
                disks.Create(
                    disk_service_pb2.CreateDiskRequest(
                        folder_id="folder", zone_id="ru-central1-a", size=4 << 20
                    )
                )
            started = time.monotonic()
            server.reset()
            taken.append(time.monotonic() - started)
            listed = disks.List(disk_service_pb2.ListDisksRequest(folder_id="folder"))
            assert not listed.disks
    print(f"reset of {DISKS} disks: {statistics.median(taken) * 1000:.0f} ms")
    assert statistics.median(taken) < RESET_SECONDS
