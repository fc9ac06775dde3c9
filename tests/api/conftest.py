"""A real server on loopback, its store in a folder of the test's own."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from api.client import Client
from darkroom.api.access.modes import access
from darkroom.api.server import Server, build_server
from darkroom.config import Settings
from darkroom.domain.operation import IMAGE_CREATE
from darkroom.operations.desk import Operations
from darkroom.operations.image_create import ImageCreateEnding
from darkroom.storage.sqlite import SqliteStore
from darkroom.telemetry import logs
from darkroom.telemetry.instruments import NO_INSTRUMENTS, Instruments
from log_schema import check

Starter = Callable[..., Server]
"""Starts a server; takes settings that differ from the defaults."""


class LogLines(logging.Handler):
    """The fields of every line logged, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def calls(self) -> list[dict[str, Any]]:
        """The fields of the access log's lines."""
        return [vars(each)["fields"] for each in self.records if each.name == "darkroom.access"]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogLines]:
    # Not configured: every line goes through `logging`, where a handler can see it.
    monkeypatch.setattr(logs, "_formatter", None)
    handler, logger = LogLines(), logging.getLogger("darkroom")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)
    written = logs.JsonFormatter()
    for record in handler.records:
        check(json.loads(written.format(record)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "metadata.sqlite", busy_seconds=0.5)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def start(store: SqliteStore, lines: LogLines, tmp_path: Path) -> Iterator[Starter]:
    started: list[Server] = []

    def start_one(instruments: Instruments = NO_INSTRUMENTS, **settings: Any) -> Server:
        desk = Operations(
            store, {IMAGE_CREATE: ImageCreateEnding()}, lambda _operation_id, _secret: "sealed"
        )
        chosen = Settings(**{"data_dir": tmp_path, "listen": "127.0.0.1:0", **settings})
        server = build_server(chosen, store, desk, access(chosen, store), instruments)
        started.append(server)
        server.start()
        server.set_serving(True)
        return server

    yield start_one
    for server in started:
        server.stop(0)


@pytest.fixture
def server(start: Starter) -> Server:
    return start()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with grpc.insecure_channel(server.address) as channel:
        yield Client(channel)
