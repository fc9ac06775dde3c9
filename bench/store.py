"""What PostgreSQL costs beside SQLite: creations, claims and reads, without server and worker.

Both as they run in production, every commit flushed to the disk; the same program, the same rows,
the same threads, runs interleaved in pairs. One server on the machine: what a network adds is not
in it.
"""

import argparse
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from darkroom.domain.ids import new_id
from darkroom.domain.image import Image
from darkroom.domain.operation import IMAGE_CREATE, Operation, State
from darkroom.operations.deriving import ResourceSource
from darkroom.operations.desk import Caller, Operations
from darkroom.operations.image_create import BlankSource, CreateImage
from darkroom.storage.port import MetadataStore
from darkroom.storage.postgres import PostgresStore
from darkroom.storage.sqlite import SqliteStore
from database_server import database, database_server
from measure import Ratio, report, scratch

GIB = 1 << 30
CALLER = Caller("bench")


@dataclass(frozen=True)
class Backend:
    """One database, and how another process would open it."""

    open: Callable[[], MetadataStore]
    stack: contextlib.ExitStack

    def opened(self) -> MetadataStore:
        return self.stack.enter_context(contextlib.closing(self.open()))


def an_operation(created_at_us: int) -> Operation:
    return Operation(
        *(new_id(), IMAGE_CREATE, "folder", new_id(), created_at_us, "bench", created_at_us),
        state=State.PENDING,
    )


def per_second(act: Callable[[], object], threads: int, times: int) -> float:
    """How often a second `act` is done by so many threads together."""

    def repeat() -> None:
        for _ in range(times // threads):
            act()

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(repeat) for _ in range(threads)]:
            done.result()
    return times // threads * threads / (time.perf_counter() - started)


def creating(backend: Backend, threads: int, times: int) -> float:
    """Images made of another image: replies after the commit, nothing is left to a worker."""
    store = backend.opened()
    desk = Operations(store, {}, lambda _id, text: text)
    source = desk.begin(CreateImage("folder", BlankSource(GIB)), CALLER).resource_id
    command = CreateImage("folder", ResourceSource(Image, source))
    return per_second(lambda: desk.begin(command, CALLER), threads, times)


def working(backend: Backend, threads: int, times: int) -> float:
    """Operations claimed and ended: two transactions each, workers of their own connections."""
    store = backend.opened()
    for number in range(times):
        operation = an_operation(number)
        store.write(lambda tx, each=operation: tx.insert_operation(each))  # type: ignore[misc]
    local = threading.local()

    def run() -> None:
        if not hasattr(local, "store"):
            local.store = backend.opened()
        while (claim := local.store.claim("bench")) is None:
            pass  # others were faster with all that it had seen
        lease = claim.lease
        assert local.store.write(lambda tx: tx.finish_leased(lease, 1, response={}))

    return per_second(run, threads, times)


def reading(backend: Backend, threads: int, times: int) -> float:
    store = backend.opened()
    desk = Operations(store, {}, lambda _id, text: text)
    image_id = desk.begin(CreateImage("folder", BlankSource(GIB)), CALLER).resource_id
    return per_second(lambda: store.get(Image, image_id), threads, times)


@contextlib.contextmanager
def backends(folder: Path) -> Iterator[tuple[Backend, Backend]]:
    """PostgreSQL and SQLite, empty."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(database_server(durable=True))
        url = stack.enter_context(database(server.url()))
        path = folder / "metadata.sqlite"
        both = (
            Backend(lambda: PostgresStore(url, max_connections=16), stack),
            Backend(lambda: SqliteStore(path), stack),
        )
        for each in both:
            each.opened().migrate()
        yield both


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--times", type=int, default=1000)
    arguments = parser.parse_args()
    ratios: list[Ratio] = []
    with scratch() as folder, backends(folder) as (postgres, sqlite):
        for title, measure, threads in (
            ("Creations from an image, 1 thread", creating, 1),
            ("Creations from an image, 8 threads", creating, 8),
            ("Claims with their ends, 1 worker", working, 1),
            ("Claims with their ends, 8 workers", working, 8),
            ("Reads by id, 1 thread", reading, 1),
        ):
            pairs = [
                (
                    measure(postgres, threads, arguments.times),
                    measure(sqlite, threads, arguments.times),
                )
                for _ in range(arguments.pairs)
            ]
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
            ratios.append(
                Ratio(f"{title}: PostgreSQL / SQLite", ratio, None, "a second", ours, theirs)
            )
    return report(ratios)


if __name__ == "__main__":
    sys.exit(main())
