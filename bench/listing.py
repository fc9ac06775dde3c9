"""What reading from a folder of 1,000,000 images costs beside one of 1,000.

Two servers, each with a database that is filled directly: images with names, families, labels
and random ids, in the order in which they were created. Calls go to both in turns, a few at a
time; every reply is checked. Medians of many turns are compared.
"""

import argparse
import contextlib
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from darkroom.domain.content import Content
from darkroom.domain.ids import new_id
from darkroom.domain.image import Image, Status
from darkroom.domain.listing import encode_page_token
from darkroom.domain.query import parse_order, values_of
from darkroom.storage import rows
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from measure import Ratio, report, running, scratch, server_command

FOLDER = "bench"
PAGE_SIZE = 100
FAMILY_SIZE = 100
SMALL, LARGE = 1_000, 1_000_000
FIRST_US = 1_790_000_000_000_000
GOAL = 1.5
CALLS = 5
"""Calls to one server before it is the other's turn."""

List = image_service_pb2.ListImagesRequest


def images(count: int) -> Iterator[Image]:
    """Image number n is created n seconds after the first one; names stand in another order."""
    pattern = Image(
        *("", FOLDER, 0, Status.READY),
        labels={"environment": "production", "team": "platform"},
        size_bytes=1 << 30,
        storage_size_bytes=1 << 28,
        min_disk_size_bytes=1 << 30,
        content_id="bench.1",
    )
    for number in range(count):
        yield replace(
            pattern,
            id=new_id(),
            created_at_us=FIRST_US + number * 1_000_000,
            name=f"image-{number * 7919 % count:07d}",
            family=f"family-{number // FAMILY_SIZE:05d}",
        )


def fill(data: Path, count: int) -> None:
    """Make the database of one server, without its checks and its flushes."""
    data.mkdir()
    path = data / "metadata.sqlite"
    store = SqliteStore(path)
    store.migrate()
    content = Content("bench.1", 1 << 30, 1 << 28, "0" * 64, "0" * 64, 0)
    store.write(lambda tx: tx.insert_content(content))
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")
        with connection:
            values = ((*rows.resource_row(image), Image.NOUN) for image in images(count))
            connection.executemany(rows.INSERT_RESOURCE, values)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@dataclass
class Folder:
    """One server's images, and the calls that are measured."""

    count: int
    data: Path
    stub: image_service_pb2_grpc.ImageServiceStub

    def __post_init__(self) -> None:
        # The same choices for both, in random order: nobody asks for neighbours.
        self._random = random.Random(1)
        with contextlib.closing(sqlite3.connect(self.data / "metadata.sqlite")) as connection:
            found = connection.execute("SELECT id FROM resource ORDER BY id").fetchall()
            self._ids = [row[0] for row in found]
            sql = f"SELECT {rows.RESOURCE_COLUMNS} FROM resource WHERE id = ?"
            last = connection.execute(sql, (self._ids[-PAGE_SIZE - 1],)).fetchone()
            self._last_page_token = self._token(rows.resource_from_row(Image, last))

    def _token(self, image: Image) -> str:
        position = values_of(image, parse_order(""))
        return encode_page_token((Image.NOUN, FOLDER, "", ""), position)

    def get(self) -> None:
        image_id = self._random.choice(self._ids)
        found = self.stub.Get(image_service_pb2.GetImageRequest(image_id=image_id))
        assert found.id == image_id

    def latest(self) -> None:
        family = self._random.randrange(self.count // FAMILY_SIZE)
        request = image_service_pb2.GetImageLatestByFamilyRequest(
            folder_id=FOLDER, family=f"family-{family:05d}"
        )
        newest = (family + 1) * FAMILY_SIZE - 1
        found = self.stub.GetLatestByFamily(request)
        assert found.created_at.seconds == FIRST_US // 1_000_000 + newest

    def page(self, *, order_by: str = "", last: bool = False) -> None:
        token = self._last_page_token if last else ""
        self._list(PAGE_SIZE, order_by=order_by, page_token=token)

    def filtered(self, text: str, expected: int, order_by: str = "") -> None:
        """`text` with the number of some image, or one that there is not, put in."""
        number = self._random.randrange(self.count)
        text = text.format(number=number, none=self.count, family=number // FAMILY_SIZE)
        self._list(expected, order_by=order_by, filter=text)

    def _list(self, expected: int, **fields: str) -> None:
        reply = self.stub.List(List(folder_id=FOLDER, page_size=PAGE_SIZE, **fields))
        assert len(reply.images) == expected, f"{fields}: {len(reply.images)} images"


CASES: tuple[tuple[str, Callable[[Folder], None]], ...] = (
    ("Get", Folder.get),
    ("GetLatestByFamily", Folder.latest),
    ("first page of 100", Folder.page),
    ("last page of 100 (of 1,000,000: the 10,000th)", lambda folder: folder.page(last=True)),
    ("first page by name", lambda folder: folder.page(order_by="name")),
    ("first page by createdAt desc", lambda folder: folder.page(order_by="createdAt desc")),
    ("name that is there", lambda folder: folder.filtered('name = "image-{number:07d}"', 1)),
    ("name that is not there", lambda folder: folder.filtered('name = "image-{none:07d}"', 0)),
    (
        "name that is there, by createdAt",
        lambda folder: folder.filtered('name = "image-{number:07d}"', 1, "createdAt"),
    ),
    ("family of 100", lambda folder: folder.filtered('family = "family-{family:05d}"', 100)),
    ("status of none", lambda folder: folder.filtered('status = "ERROR"', 0)),
)


def milliseconds(call: Callable[[Folder], None], folder: Folder) -> float:
    """Of one call, the mean of a few."""
    started = time.perf_counter()
    for _ in range(CALLS):
        call(folder)
    return (time.perf_counter() - started) * 1000 / CALLS


def compare(
    title: str, call: Callable[[Folder], None], large: Folder, small: Folder, turns: int
) -> Ratio:
    """Ratio of the medians of `turns` turns each."""
    figures = []
    for number in range(turns + 5):
        figure = milliseconds(call, large), milliseconds(call, small)
        if number >= 5:  # the first ones warm both up
            figures.append(figure)
    ours, theirs = zip(*figures, strict=True)
    ratio = statistics.median(ours) / statistics.median(theirs)
    title = f"{title}: {large.count:,} images / {small.count:,}"
    return Ratio(title, ratio, GOAL, "ms", ours, theirs, at_most=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--images", type=int, default=LARGE)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        filled = []
        for count in (arguments.images, SMALL):
            data = folder / str(count)
            fill(data, count)
            command = server_command(data)
            server = stack.enter_context(running(command, folder / f"{count}.log"))
            channel = stack.enter_context(grpc.insecure_channel(server.address))
            stub = image_service_pb2_grpc.ImageServiceStub(channel)
            filled.append(Folder(count, data, stub))
        large, small = filled
        ratios = [compare(title, call, large, small, arguments.turns) for title, call in CASES]
        # What no index answers walks through the folder: for the reader, without a goal.
        started = time.perf_counter()
        large.filtered('labels.team = "nobody"', 0)
        seconds = time.perf_counter() - started
        print(f"A label that no image of {large.count:,} has: {seconds:.2f} s")
        return report(ratios)


if __name__ == "__main__":
    sys.exit(main())
