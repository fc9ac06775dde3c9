"""How soon work begins and how much of it gets done, on SQLite and on PostgreSQL.

From the moment at which an operation is written to the one at which a worker has claimed it, on an
installation that has nothing else to do; small imports per minute with two workers; operations per
second that end in their call. PostgreSQL is a server of this script's own, and flushes. With
`--folder` in memory the figures are the program's alone, without what the disk adds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from darkroom_pb.yandex.cloud.operation import (
    operation_pb2,
    operation_service_pb2,
    operation_service_pb2_grpc,
)
from importing import make_disk, object_server
from measure import Ratio, Server, report, running, scratch
from rpc import PREFIX, framed, load

WORKERS = 2
START_MS = 50.0
IMPORTS_PER_MINUTE = 200.0
PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 120.0
RUNS = 5


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """URL of an empty database on a server that is ended with the block."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from database_server import database, database_server

    with database_server(durable=True) as server, database(server.url()) as url:
        yield url


@dataclass(frozen=True)
class Installation:
    """A server with two workers, and the disk that it may import."""

    server: Server
    log: Path
    channel: grpc.Channel
    url: str

    def create(self) -> operation_pb2.Operation:
        """An import of the disk, begun."""
        request = image_service_pb2.CreateImageRequest(folder_id="bench", uri=self.url)
        return image_service_pb2_grpc.ImageServiceStub(self.channel).Create(request)

    def wait(self, operation: operation_pb2.Operation) -> operation_pb2.Operation:
        """The operation once it has succeeded."""
        stub = operation_service_pb2_grpc.OperationServiceStub(self.channel)
        get = operation_service_pb2.GetOperationRequest(operation_id=operation.id)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not operation.done:
            assert time.monotonic() < deadline, f"{operation.id} did not end"
            time.sleep(0.01)
            operation = stub.Get(get)
        assert operation.HasField("response"), operation
        return operation

    def claims(self) -> dict[str, float]:
        """Seconds since the epoch at which each operation was claimed first."""
        found: dict[str, float] = {}
        for line in self.log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["event"] == "operation claimed":
                moment = datetime.fromisoformat(entry["time"]).timestamp()
                found.setdefault(entry["operation_id"], moment)
        return found


@contextlib.contextmanager
def installation(folder: Path, database_url: str) -> Iterator[Installation]:
    """The program as it is installed, with nothing but the number of workers set."""
    folder.mkdir()
    served = folder / "served"
    served.mkdir()
    disk = make_disk(served, 1)
    command = [sys.executable, "-m", "darkroom", "serve", "--listen", "127.0.0.1:0"]
    command += ["--tls-listen", "", "--data-dir", str(folder / "data"), "--workers", str(WORKERS)]
    if database_url:
        command += ["--database-url", database_url]
    log = folder / "serve.log"
    with (
        object_server(served, 0) as source,
        running([*command, "--source-allow", f"http://{source.address}/"], log) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        url = f"http://{source.address}/images/{disk.name}?X-Amz-Signature=c0ffee5eedc0ffee5eed"
        yield Installation(server, log, channel, url)


def starts(of: Installation, number: int) -> list[float]:
    """Milliseconds from an operation's writing to its claim, one operation at a time."""
    written: dict[str, float] = {}
    for _ in range(number):
        operation = of.create()
        moment = operation.created_at
        written[operation.id] = moment.seconds + moment.nanos / 1e9
        of.wait(operation)
        time.sleep(PAUSE_SECONDS)
    claims = of.claims()
    return [(claims[each] - begun) * 1000 for each, begun in written.items()]


def imports_per_minute(of: Installation, number: int) -> float:
    """Of imports that are all asked for at once."""
    started = time.perf_counter()
    for operation in [of.create() for _ in range(number)]:
        of.wait(operation)
    return number / (time.perf_counter() - started) * 60


def operations_per_second(of: Installation, folder: Path, number: int) -> list[float]:
    """Of images made of an image: operation, image and key in one transaction, done at once."""
    metadata = image_service_pb2.CreateImageMetadata()
    of.wait(of.create()).metadata.Unpack(metadata)
    request = image_service_pb2.CreateImageRequest(folder_id="bench", image_id=metadata.image_id)
    body = folder / "body"
    body.write_bytes(framed(request.SerializeToString()))
    return [load(of.server.address, PREFIX + "Create", body, number, 8)[0] for _ in range(RUNS)]


def measured(name: str, folder: Path, database_url: str, number: int) -> list[Ratio]:
    """The figures of one database."""
    with installation(folder, database_url) as of:
        starts(of, 5)  # warms everything up
        latencies = starts(of, number)
        rate = imports_per_minute(of, number)
        rates = operations_per_second(of, folder, number * 20)
    p99 = statistics.quantiles(latencies, n=100)[98]
    print(
        f"{name}: from create to start {statistics.median(latencies):.1f} ms, "
        f"p99 {p99:.1f} ms; {rate:.0f} small imports per minute with {WORKERS} workers; "
        f"{statistics.median(rates):.0f} operations/s that end in their call"
    )
    return [
        Ratio(
            *(f"{name}: create to start, p99 / {START_MS:.0f} ms", p99 / START_MS, 1.0, "ms"),
            *(latencies, [START_MS], True),
        ),
        Ratio(
            f"{name}: small imports per minute / {IMPORTS_PER_MINUTE:.0f}",
            *(rate / IMPORTS_PER_MINUTE, 1.0, "per min", [rate], [IMPORTS_PER_MINUTE]),
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--folder", help="an existing folder to keep everything in")
    arguments = parser.parse_args()
    number = arguments.number
    if arguments.folder:
        tempfile.tempdir = arguments.folder
    qemu = subprocess.run(["qemu-img", "--version"], check=True, capture_output=True, text=True)
    print(f"{qemu.stdout.splitlines()[0]}; load {os.getloadavg()[0]:.1f}")
    with contextlib.ExitStack() as stack:
        if arguments.folder:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = stack.enter_context(scratch())
        url = stack.enter_context(postgresql())
        ratios = measured("SQLite", folder / "sqlite", "", number)
        ratios += measured("PostgreSQL", folder / "postgresql", url, number)
        return report(ratios)


if __name__ == "__main__":
    sys.exit(main())
