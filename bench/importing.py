"""What an import costs beside curl, hashlib and qemu-img doing the same by hand.

The yardstick downloads with curl, hashes the file with hashlib, converts it with the flags that
Darkroom uses and flushes it. Ours is one Create, from the call to `done`, everything included.
"""

import argparse
import contextlib
import hashlib
import mmap
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from darkroom_pb.yandex.cloud.operation import operation_service_pb2, operation_service_pb2_grpc
from measure import Ratio, Server, report, running, scratch

MIB = 1 << 20
CHUNK_BYTES = 8 * MIB
WARM_BYTES = 3 << 30
"""Two files of the default size, and what their neighbours need."""


def make_disk(folder: Path, size_mib: int) -> Path:
    """A qcow2 whose file has about `size_mib` MiB, most of it data that does not compress."""
    raw, disk = folder / "disk.raw", folder / "disk.qcow2"
    with raw.open("wb") as file:
        for number in range(size_mib // 8):
            file.seek(number * 3 * CHUNK_BYTES)
            file.write(os.urandom(CHUNK_BYTES))
        file.truncate(max(size_mib * 3, 8) * MIB)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk)]
    subprocess.run(convert, check=True)
    raw.unlink()
    return disk


def warm_memory() -> None:
    """Touch and free the memory that the next run will use for its files.

    On a virtual machine the first touch of a page costs the host far more than the run itself,
    and would be paid by whichever side happens to come first to it.
    """
    with mmap.mmap(-1, WARM_BYTES) as memory:
        for start in range(0, WARM_BYTES, mmap.PAGESIZE):
            memory[start] = 1


def by_hand(url: str, folder: Path) -> float:
    """Seconds for curl, hashlib, qemu-img and fsync, one after the other."""
    source, target = folder / "source", folder / "target.qcow2"
    started = time.perf_counter()
    subprocess.run(["curl", "-sS", "-o", str(source), url], check=True)
    with source.open("rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
    command = ["qemu-img", "convert", "-t", "writeback", "-f", "qcow2", "-O", "qcow2"]
    subprocess.run([*command, str(source), str(target)], check=True)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    source.unlink()
    target.unlink()
    return seconds


class Client:
    """Creates images and waits for them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._images = image_service_pb2_grpc.ImageServiceStub(channel)
        self._operations = operation_service_pb2_grpc.OperationServiceStub(channel)

    def create(self, url: str) -> tuple[float, str]:
        """Seconds from the call to done, and the image's id."""
        started = time.perf_counter()
        request = image_service_pb2.CreateImageRequest(folder_id="bench", uri=url)
        operation = self._images.Create(request)
        metadata = image_service_pb2.CreateImageMetadata()
        operation.metadata.Unpack(metadata)
        get = operation_service_pb2.GetOperationRequest(operation_id=operation.id)
        while not operation.done:
            time.sleep(0.01)
            operation = self._operations.Get(get)
        seconds = time.perf_counter() - started
        assert operation.HasField("response"), operation
        return seconds, metadata.image_id

    def get(self, image_id: str) -> float:
        """Seconds for one Get."""
        started = time.perf_counter()
        self._images.Get(image_service_pb2.GetImageRequest(image_id=image_id))
        return time.perf_counter() - started

    def delete(self, image_id: str) -> None:
        self._images.Delete(image_service_pb2.DeleteImageRequest(image_id=image_id))


class PeakMemory:
    """The largest sum of resident memory of the workers and what they started, sampled."""

    def __init__(self, serve_pid: int) -> None:
        self._serve_pid = serve_pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.worker_mib = 0.0
        self.with_children_mib = 0.0

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            for worker in _children(self._serve_pid):
                own = _resident_mib(worker)
                below = sum(_resident_mib(pid) for pid in _descendants(worker))
                self.worker_mib = max(self.worker_mib, own)
                self.with_children_mib = max(self.with_children_mib, own + below)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(each) for each in (task / "children").read_text().split()]
    return found


def _descendants(pid: int) -> list[int]:
    below = _children(pid)
    return below + [each for child in below for each in _descendants(child)]


def _resident_mib(pid: int) -> float:
    with contextlib.suppress(OSError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return 0.0


@contextlib.contextmanager
def object_server(folder: Path, bytes_per_second: int) -> Iterator[Server]:
    """The tests' object server in a process of its own."""
    script = Path(__file__).parents[1] / "tests" / "object_server.py"
    command = [sys.executable, str(script), str(folder), str(bytes_per_second)]
    with running(command, None) as server:
        yield server


def compare(
    title: str, goal: float, folder: Path, disk: Path, client: Client, server: Server, pairs: int
) -> Ratio:
    """Interleaved pairs of an import by hand and one by us."""
    url = f"http://{server.address}/images/{disk.name}?X-Amz-Signature=c0ffee5eedc0ffee5eed"
    figures = []
    for number in range(pairs + 1):
        warm_memory()
        hand = by_hand(url, folder)
        warm_memory()
        ours, image_id = client.create(url)
        client.delete(image_id)
        if number:
            figures.append((ours, hand))
    ratio = statistics.median(our / hand for our, hand in figures)
    return Ratio(title, ratio, goal, "s", [o for o, _ in figures], [h for _, h in figures], True)


def steady_gets(
    client: Client, image_id: str, seconds: float, per_second: int = 200
) -> list[float]:
    """Latencies in ms of Gets sent at a fixed rate; a late one counts from when it was due."""
    latencies = []
    begun = time.perf_counter()
    for number in range(int(seconds * per_second)):
        due = begun + number / per_second
        time.sleep(max(0.0, due - time.perf_counter()))
        client.get(image_id)
        latencies.append((time.perf_counter() - due) * 1000)
    return latencies


def p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98]


def get_during_import(client: Client, folder: Path, disk: Path, server: Server) -> None:
    """p99 of Get at 200 calls/s, idle and while imports run one after the other."""
    url = f"http://{server.address}/images/{disk.name}?X-Amz-Signature=c0ffee5eedc0ffee5eed"
    _, image_id = client.create(url)
    idle = steady_gets(client, image_id, 8.0)
    stop = threading.Event()
    imports = []

    def keep_importing() -> None:
        while not stop.is_set():
            imports.append(client.create(url)[1])

    thread = threading.Thread(target=keep_importing)
    thread.start()
    busy = steady_gets(client, image_id, 8.0)
    stop.set()
    thread.join()
    print(
        f"Get at 200 calls/s: p99 {p99(idle):.1f} ms idle, {p99(busy):.1f} ms during "
        f"{len(imports)} imports one after the other (median {statistics.median(idle):.1f} and "
        f"{statistics.median(busy):.1f} ms)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=600)
    arguments = parser.parse_args()
    ratios = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        (folder / "served").mkdir()
        disk = make_disk(folder / "served", arguments.mib)
        fast = stack.enter_context(object_server(disk.parent, 0))
        slow = stack.enter_context(object_server(disk.parent, 60_000_000))
        command = [sys.executable, "-m", "darkroom", "serve", "--listen", "127.0.0.1:0"]
        command += ["--tls-listen", ""]
        command += ["--data-dir", str(folder / "data")]
        for server in (fast, slow):
            command += ["--source-allow", f"http://{server.address}/"]
        ours = stack.enter_context(running(command, folder / "ours.log"))
        client = Client(stack.enter_context(grpc.insecure_channel(ours.address)))
        with PeakMemory(ours.pid) as memory:
            title = f"Import of a {arguments.mib} MiB qcow2 / curl, hashlib, qemu-img, fsync"
            pairs = arguments.pairs
            ratios.append(compare(title, 1.5, folder, disk, client, fast, pairs))
            title += ", 60 MB/s per connection"
            ratios.append(compare(title, 0.4, folder, disk, client, slow, pairs))
        print(
            f"Peak memory: {memory.worker_mib:.0f} MiB in the worker, "
            f"{memory.with_children_mib:.0f} MiB with its children (goal < 250)"
        )
        get_during_import(client, folder, disk, fast)
        failed = report(ratios)
    return failed or int(memory.with_children_mib >= 250)


if __name__ == "__main__":
    sys.exit(main())
