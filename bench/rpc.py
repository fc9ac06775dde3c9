"""What a call costs beside an empty gRPC handler.

Two servers on one core, the same client (h2load) on another, the same number of threads, runs
interleaved in pairs. Only ratios of one run are compared; absolute figures are for the reader.
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
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc

from darkroom.api.access.account_files import AccountFiles
from darkroom.api.access.modes import issuer
from darkroom.config import Settings
from darkroom.domain.content import Content
from darkroom.domain.ids import new_id
from darkroom.domain.image import Image, Status
from darkroom.storage.port import Transaction
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from measure import Ratio, Server, report, running, scratch, server_command

PREFIX = "/yandex.cloud.compute.v1.ImageService/"
FOLDER = "bench"


def framed(message: bytes) -> bytes:
    """A gRPC message as it goes over HTTP/2: no compression, length, bytes."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def load(
    address: str, method: str, body: Path, calls: int, connections: int, token: str = ""
) -> tuple[float, int]:
    """Calls per second by h2load, and the bytes of reply bodies it received."""
    command = ["taskset", "-c", "1", "h2load", "-n", str(calls), "-c", str(connections), "-m", "4"]
    command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    if token:
        command += ["-H", f"authorization: Bearer {token}"]
    output = subprocess.run(
        [*command, f"http://{address}{method}"], check=True, capture_output=True, text=True
    ).stdout
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", output)
    done = re.search(r"(\d+) succeeded, 0 failed, 0 errored, 0 timeout", output)
    data = re.search(r"\((\d+)\) data$", output, re.MULTILINE)
    assert rate and done and data and int(done[1]) == calls, output
    return float(rate[1]), int(data[1])


def compare(
    title: str,
    goal: float | None,
    ours: Server,
    bare: Server,
    method: str,
    request: bytes,
    reply_bytes: int,
    *,
    pairs: int,
    calls: int,
    folder: Path,
    token: str = "",
) -> Ratio:
    """Median of `pairs` interleaved pairs; all replies together are as long as good ones are.

    h2load counts an error as a success, but an error has no reply body. Times in replies differ
    in length by a few bytes.
    """
    body = folder / "body"
    body.write_bytes(framed(request))
    expected = calls * reply_bytes
    figures: list[tuple[float, float]] = []
    for number in range(pairs + 1):
        bare_rate, bare_data = load(bare.address, method, body, calls, 8)
        assert bare_data == calls * len(framed(b"")), f"{title}: the yardstick answers errors"
        our_rate, data = load(ours.address, method, body, calls, 8, token)
        assert abs(data - expected) < expected * 0.02, f"{title}: {data} bytes, not {expected}"
        if number:  # the first pair warms both up
            figures.append((our_rate, bare_rate))
    ratio = statistics.median(our / theirs for our, theirs in figures)
    unit = "calls/s"
    return Ratio(title, ratio, goal, unit, [our for our, _ in figures], [b for _, b in figures])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000)
    arguments = parser.parse_args()
    assert shutil.which("h2load"), "h2load is missing: apt-get install nghttp2-client"
    assert len(os.sched_getaffinity(0)) >= 2, "needs two cores: one for servers, one for clients"
    ratios = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        command = server_command(folder / "data")
        ours = stack.enter_context(running(command, folder / "ours.log", cpu=0))
        yardstick = [sys.executable, str(Path(__file__).with_name("bare.py"))]
        bare = stack.enter_context(running(yardstick, None, cpu=0))
        counted_data = folder / "counted"
        counted_command = server_command(counted_data, "--metrics-listen", "127.0.0.1:0")
        counted = stack.enter_context(running(counted_command, folder / "counted.log", cpu=0))
        traced_data = folder / "traced"
        traced_command = server_command(
            traced_data, "--tracing-endpoint", stack.enter_context(sink()), "--tracing-ratio=0.01"
        )
        traced = stack.enter_context(running(traced_command, folder / "traced.log", cpu=0))
        guarded_data = folder / "guarded"
        account_id, _ = AccountFiles(guarded_data / "access").create(
            "bench", ["viewer"], [], user=False
        )
        guarded_command = server_command(guarded_data, "--auth-mode", "iam")
        guarded = stack.enter_context(running(guarded_command, folder / "guarded.log", cpu=0))
        token, _ = issuer(Settings(data_dir=guarded_data)).issue(account_id)
        image_id = seed(folder / "data")
        seed(guarded_data, image_id)
        seed(counted_data, image_id)
        seed(traced_data, image_id)
        channel = stack.enter_context(grpc.insecure_channel(ours.address))
        stub = image_service_pb2_grpc.ImageServiceStub(channel)
        get = image_service_pb2.GetImageRequest(image_id=image_id)
        create = image_service_pb2.CreateImageRequest(folder_id=FOLDER, image_id=image_id)
        listing = image_service_pb2.ListImagesRequest(folder_id=FOLDER, page_size=50)
        for title, goal, method, request, calls, server in (
            ("Get of an existing image / empty handler", 0.55, "Get", get, arguments.calls, ours),
            (
                "the same with figures for Prometheus",
                *(0.55, "Get", get, arguments.calls, counted),
            ),
            (
                "the same with one call in a hundred traced",
                *(0.55, "Get", get, arguments.calls, traced),
            ),
            (
                "the same with a token and a role, --auth-mode iam",
                *(0.4, "Get", get, arguments.calls, guarded),
            ),
            (
                "Create from image_id / bare handler, same rows",
                *(0.6, "Create", create, arguments.calls // 4, ours),
            ),
            ("List of 50 / empty handler", None, "List", listing, arguments.calls // 20, ours),
        ):
            reply = getattr(stub, method)(request).SerializeToString()
            ratios.append(
                compare(
                    *(title, goal, server, bare, PREFIX + method, request.SerializeToString()),
                    len(framed(reply)),
                    pairs=arguments.pairs,
                    calls=calls,
                    folder=folder,
                    token=token if server is guarded else "",
                )
            )
    return report(ratios)


class _Sink(BaseHTTPRequestHandler):
    """Takes whatever is posted."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """The URL of something that takes spans."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        server.server_close()


def seed(data: Path, image_id: str = "") -> str:
    """Write one READY image straight into the database; returns its id."""
    store = SqliteStore(data / "metadata.sqlite")
    content = Content("bench.1", 1 << 30, 1 << 28, "0" * 64, "0" * 64, 0)
    image = Image(
        id=image_id or new_id(),
        folder_id=FOLDER,
        created_at_us=1_790_000_000_000_000,
        status=Status.READY,
        name="bench-image",
        description="What a real image might say about itself.",
        labels={"environment": "production", "team": "platform"},
        family="bench",
        size_bytes=1 << 30,
        storage_size_bytes=1 << 28,
        min_disk_size_bytes=1 << 30,
        product_ids=("f2e000000000000000",),
        content_id=content.id,
    )

    def change(tx: Transaction) -> None:
        tx.insert_content(content)
        tx.insert_resource(image)

    store.write(change)
    store.close()
    return image.id


if __name__ == "__main__":
    sys.exit(main())
