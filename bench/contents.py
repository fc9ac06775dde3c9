"""What it costs to keep contents in object storage instead of a folder.

Three ratios over a real SeaweedFS on the same machine: our upload to boto3's own for the same
file, which does not look whether the bytes arrive as they were converted; an import into object
storage to one into a folder; an export from there to one from a folder.
"""

import argparse
import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import botocore.exceptions
import grpc

from darkroom.cli import seaweedfs
from darkroom.domain.work import Watch
from darkroom.imaging.s3_calls import Calls
from darkroom.imaging.s3_contents import S3Contents
from importing import Client, PeakMemory, make_disk, object_server, warm_memory
from measure import Ratio, Server, report, running, scratch

BUCKET = "contents"


class Unwatched:
    """Nobody stops this upload."""

    event = threading.Event()

    def check(self) -> None: ...

    def progress(self, done_bytes: int, total_bytes: int | None) -> None: ...


@contextlib.contextmanager
def storage(folder: Path) -> Iterator[None]:
    """A SeaweedFS with a bucket, to which the AWS variables of this process lead."""
    with seaweedfs.running(folder) as running_storage:
        os.environ.update(running_storage.environment())
        os.environ["AWS_DEFAULT_REGION"] = os.environ["AWS_REGION"]  # boto3 knows this one only
        deadline = time.monotonic() + 60
        while True:
            try:
                boto3.client("s3").create_bucket(Bucket=BUCKET)
                break
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                assert running_storage.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        yield


def timed(act: Callable[[], object]) -> float:
    """Seconds that it takes, with memory that was touched before."""
    warm_memory()
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def paired(
    title: str,
    goal: float | None,
    ours: Callable[[int], float],
    theirs: Callable[[int], float],
    pairs: int,
) -> Ratio:
    """Interleaved pairs; the first one only warms up."""
    figures = [(ours(number), theirs(number)) for number in range(pairs + 1)][1:]
    ratio = statistics.median(our / their for our, their in figures)
    return Ratio(title, ratio, goal, "s", [o for o, _ in figures], [t for _, t in figures], True)


def uploads(file: Path, pairs: int) -> Ratio:
    """Our upload of one file and boto3's."""
    client = boto3.client("s3")
    contents = S3Contents(Calls(BUCKET), "ours")
    watch: Watch = Unwatched()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    def ours(number: int) -> float:
        path = file.with_name("linked")
        os.link(file, path)
        seconds = timed(lambda: contents.put(f"op{number}.1", path, digest, watch))
        contents.delete(f"op{number}.1")
        return seconds

    def theirs(number: int) -> float:
        seconds = timed(lambda: client.upload_file(str(file), BUCKET, f"theirs/{number}"))
        client.delete_object(Bucket=BUCKET, Key=f"theirs/{number}")
        return seconds

    return paired("Upload / boto3's upload_file", 1.3, ours, theirs, pairs)


class Installation:
    """A server with a worker, to import into and export from."""

    def __init__(self, data: Path, content_url: str, source: Server) -> None:
        self.data = data
        self._content_url = content_url
        self._source = source

    @contextlib.contextmanager
    def serving(self) -> Iterator["Installation"]:
        command = [sys.executable, "-m", "darkroom", "serve", "--listen", "127.0.0.1:0"]
        command += ["--tls-listen", "", "--data-dir", str(self.data)]
        command += ["--content-url", self._content_url]
        command += ["--source-allow", f"http://{self._source.address}/"]
        with (
            running(command, self.data.with_suffix(".log")) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            self.pid = server.pid
            self.client = Client(channel)
            yield self

    def import_(self, disk: Path) -> tuple[float, str]:
        warm_memory()
        signed = "X-Amz-Signature=c0ffee5eedc0ffee5eed"
        return self.client.create(f"http://{self._source.address}/images/{disk.name}?{signed}")

    def export(self, image_id: str, target: Path) -> float:
        command = [sys.executable, "-m", "darkroom", "image", "export", image_id, str(target)]
        command += ["--data-dir", str(self.data), "--content-url", self._content_url]
        seconds = timed(lambda: subprocess.run(command, check=True))
        target.unlink()
        return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--mib", type=int, default=300)
    arguments = parser.parse_args()
    pairs = arguments.pairs
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        (folder / "served").mkdir()
        disk = make_disk(folder / "served", arguments.mib)
        source = stack.enter_context(object_server(disk.parent, 0))
        stack.enter_context(storage(folder / "storage"))
        ratios = [uploads(disk, pairs)]
        remote, local = (
            stack.enter_context(Installation(folder / name, url, source).serving())
            for name, url in (("remote", f"s3://{BUCKET}/remote"), ("local", ""))
        )

        def imported(installation: Installation) -> float:
            seconds, image_id = installation.import_(disk)
            installation.client.delete(image_id)
            return seconds

        title = f"Import of a {arguments.mib} MiB qcow2 into object storage / into a folder"
        with PeakMemory(remote.pid) as memory:
            ratios.append(
                paired(title, None, lambda _: imported(remote), lambda _: imported(local), pairs)
            )
        kept = {each: each.import_(disk)[1] for each in (remote, local)}

        def exported(installation: Installation) -> float:
            return installation.export(kept[installation], folder / "exported.qcow2")

        title = "Export from object storage / from a folder"
        ratios.append(
            paired(title, None, lambda _: exported(remote), lambda _: exported(local), pairs)
        )
        print(
            f"Peak memory of an import into object storage: {memory.worker_mib:.0f} MiB in the "
            f"worker, {memory.with_children_mib:.0f} MiB with its children (goal < 300)"
        )
        failed = report(ratios)
    return failed or int(memory.with_children_mib >= 300)


if __name__ == "__main__":
    sys.exit(main())
