"""What is left of a server under far more calls than fit: latency, memory, and itself afterwards.

A generator keeps a thousand creations under way and repeats each refused one at once, against all
advice. Beside it a caller who waits between calls measures what everybody else gets.
"""

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from google.rpc import error_details_pb2, status_pb2

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from measure import Ratio, Server, report, running, scratch, server_command
from rpc import FOLDER, PREFIX, framed, seed

CONNECTIONS = 10
MOST_STREAMS = 100
"""Calls that the server lets one connection have under way."""
PROBES = 300
PAUSE_SECONDS = 0.01
BOUND_MS = 1500.0
MIB = 1 << 20


# --- the generator --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generated:
    """What became of a generator's calls."""

    accepted_per_second: float
    refused_per_second: float


class Generator:
    """h2load, with so many calls under way on each of its connections."""

    def __init__(
        self, server: Server, body: Path, reply_bytes: int, calls: int, seconds: int
    ) -> None:
        self._reply_bytes = reply_bytes
        self._seconds = seconds
        self._process = subprocess.Popen(
            [
                *("taskset", "-c", "1", "h2load", "-c", str(CONNECTIONS), "-m", str(calls)),
                *("-D", str(seconds), "-d", str(body), "-H", "content-type: application/grpc"),
                *("-H", "te: trailers", f"http://{server.address}{PREFIX}Create"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def ended(self) -> Generated:
        """A refusal has no body, so the bytes of bodies tell how many were accepted."""
        output, _ = self._process.communicate()
        done = re.search(r"(\d+) done, \d+ succeeded", output)
        data = re.search(r"\((\d+)\) data$", output, re.MULTILINE)
        assert done and data, output
        accepted = int(data[1]) / self._reply_bytes
        return Generated(accepted / self._seconds, (int(done[1]) - accepted) / self._seconds)

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


# --- the caller who measures ----------------------------------------------------------------------


@dataclass
class Seen:
    """Milliseconds that calls took, by how they ended; how many refusals named a pause."""

    accepted: list[float]
    refused: list[float]
    with_a_pause: int = 0


def probe(
    server: Server,
    request: image_service_pb2.CreateImageRequest,
    beside: "Generator | None" = None,
) -> Seen:
    """Create again and again, one at a time, with pauses; as long as the generator runs."""
    seen = Seen([], [])
    with grpc.insecure_channel(server.address) as channel:
        create = image_service_pb2_grpc.ImageServiceStub(channel).Create
        while beside.runs if beside else len(seen.accepted) < PROBES:
            started = time.perf_counter()
            try:
                create(request, timeout=30)
                times = seen.accepted
            except grpc.RpcError as error:
                failed: Any = error
                assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, failed
                seen.with_a_pause += _names_a_pause(failed)
                times = seen.refused
            times.append((time.perf_counter() - started) * 1000)
            time.sleep(PAUSE_SECONDS)
    return seen


def _names_a_pause(failed: Any) -> bool:
    trailers = dict(failed.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    name = error_details_pb2.RetryInfo.DESCRIPTOR.full_name
    return name in [detail.TypeName() for detail in status.details]


class Memory:
    """The largest resident size of a process while this is looking, bytes."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.peak = self.now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def now(self) -> int:
        return int(self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    assert shutil.which("h2load"), "h2load is missing: apt-get install nghttp2-client"
    assert len(os.sched_getaffinity(0)) >= 2, "needs two cores: one for the server, one for clients"
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        command = server_command(folder / "data")
        server = stack.enter_context(running(command, folder / "server.log", cpu=0))
        return report(measured(server, folder, arguments.seconds))


def measured(server: Server, folder: Path, seconds: int) -> list[Ratio]:
    """Quiet, full, overloaded, quiet again."""
    request = image_service_pb2.CreateImageRequest(folder_id=FOLDER, image_id=seed(folder / "data"))
    with grpc.insecure_channel(server.address) as channel:
        reply = image_service_pb2_grpc.ImageServiceStub(channel).Create(request)
    body = folder / "body"
    body.write_bytes(framed(request.SerializeToString()))

    def generator(calls: int) -> Generator:
        return Generator(server, body, len(framed(reply.SerializeToString())), calls, seconds)

    probe(server, request)  # warms it up
    quiet = probe(server, request)
    with generator(1) as fitting_load:
        fitting = fitting_load.ended()
    with Memory(server.pid) as memory:
        before = memory.now()
        with generator(MOST_STREAMS) as overload:
            during = probe(server, request, overload)
            over = overload.ended()
    after = probe(server, request)
    print(f"{CONNECTIONS} under way: {fitting.accepted_per_second:.0f} creations/s")
    print(
        f"{CONNECTIONS * MOST_STREAMS} under way: {over.accepted_per_second:.0f} creations/s, "
        f"{over.refused_per_second:.0f} refused per s; the caller beside them: "
        f"{len(during.accepted)} accepted, {len(during.refused)} refused"
    )
    return [
        _p99("accepted Create under overload, p99 / 1.5 s", during.accepted),
        _p99("refused Create under overload, p99 / 1.5 s", during.refused),
        Ratio(
            "refusals that name a pause / all",
            during.with_a_pause / max(1, len(during.refused)),
            *(1.0, "calls", [during.with_a_pause], [len(during.refused)]),
        ),
        Ratio(
            "what a refusal costs / what a creation costs",
            (fitting.accepted_per_second - over.accepted_per_second) / over.refused_per_second,
            *(0.2, "per s", [over.refused_per_second], [fitting.accepted_per_second]),
            at_most=True,
        ),
        # How little is left depends on how often callers who never wait can ask: it is a floor.
        Ratio(
            "creations under overload / under a load that fits",
            over.accepted_per_second / fitting.accepted_per_second,
            *(0.1, "per s", [over.accepted_per_second], [fitting.accepted_per_second]),
        ),
        Ratio(
            "memory of the server, peak under overload / before",
            memory.peak / before,
            *(3.0, "MiB", [memory.peak / MIB], [before / MIB]),
            at_most=True,
        ),
        Ratio(
            "median of Create after the overload / before",
            statistics.median(after.accepted) / statistics.median(quiet.accepted),
            *(3.0, "ms", after.accepted, quiet.accepted),
            at_most=True,
        ),
    ]


def _p99(title: str, times: list[float]) -> Ratio:
    """The 99th percentile of times over what two waits for a turn and the work may take."""
    p99 = statistics.quantiles(times, n=100)[98] if len(times) > 1 else sum(times)
    return Ratio(title, p99 / BOUND_MS, 1.0, "ms", times or [0.0], [BOUND_MS], at_most=True)


if __name__ == "__main__":
    sys.exit(main())
