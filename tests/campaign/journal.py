"""What clients asked for and were told: the truth that the final state is compared with."""

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from darkroom_pb.yandex.cloud.operation import operation_pb2


@dataclass
class Picture:
    """An image as the one client knows it that owns it."""

    key: str
    """A label of it: the idempotency key of the call that made it."""
    source: str
    """Name of the file that it was imported from, or whose descendant it is."""
    image_id: str
    labels: dict[str, str]
    name: str
    status: str = "CREATING"
    """CREATING, READY, ERROR or GONE."""


@dataclass
class Entry:
    """One acknowledged operation."""

    operation_id: str
    method: str
    request: Message
    key: str
    picture: Picture
    becomes: dict[str, Any]
    """What a success changes of the picture."""
    doomed: bool = False
    """Whether its client means to cancel it."""
    cancelled: bool = False
    """Whether a cancel was acknowledged before the end was seen."""
    ended: operation_pb2.Operation | None = None
    """As it was when a client first saw it done."""

    @property
    def succeeded(self) -> bool:
        return self.ended is not None and not self.ended.HasField("error")


@dataclass
class Journal:
    """Everything that was acknowledged, by all clients. Thread-safe where they share it."""

    path: Path
    entries: list[Entry] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    uncertain: set[str] = field(default_factory=set)
    """Keys of calls that were refused after an answer to them had been lost: an API process that
    stood still may have acted on the first one later."""
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.abandoned = threading.Event()
        """Set when nobody will answer any more."""
        self._lock = threading.Lock()

    def begun(self, entry: Entry) -> None:
        with self._lock:
            self.entries.append(entry)
            if entry.method == "Create":
                self.pictures.append(entry.picture)
        self.count("acknowledged")
        self.count(f"begun {entry.method}")
        self._write("begun", entry)

    def ended(self, entry: Entry) -> None:
        self.count("finished" if entry.succeeded else "failed")
        if entry.method == "Create" and entry.request.uri:  # type: ignore[attr-defined]
            self.count("imported" if entry.succeeded else "not imported")
        self._write("ended", entry)

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def violated(self, text: str) -> None:
        with self._lock:
            self.violations.append(text)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"VIOLATION {text}\n")

    def _write(self, what: str, entry: Entry) -> None:
        line = {
            "what": what,
            "operation": entry.operation_id,
            "method": entry.method,
            "key": entry.key,
            "image": entry.picture.image_id,
            "request": str(entry.request).replace("\n", " "),
            "ended": str(entry.ended).replace("\n", " ") if entry.ended else "",
        }
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
