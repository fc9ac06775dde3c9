"""Clients that create, change, cancel and delete images until they are told to stop.

Every call has an idempotency key and is sent again, to any API process, until its outcome is
known. So whatever they were told must be so, and nothing else may be.
"""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf import field_mask_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from api.client import Refused, answered
from campaign.fleet import Fleet
from campaign.journal import Entry, Journal, Picture
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2, operation_service_pb2
from object_server import ObjectServer

FOLDER = "folder"
NAMES = tuple(f"name-{number}" for number in range(6))
"""All clients want these, and each may be had by one image only."""

SOURCES = ("first.raw", "second.raw", "third.qcow2")
MISSING = "missing.raw"
"""A source that the object storage does not have: its import fails for good."""

_CALL_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
"""Before a call is sent again."""
_OUTCOME_SECONDS = 90.0
"""Longest time in which a call may stay without an outcome."""

_UNCERTAIN = {
    *(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED),
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_REFUSALS = {
    *(grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND),
    grpc.StatusCode.FAILED_PRECONDITION,
}
_MAX_PICTURES = 8
ERROR = image_pb2.Image.ERROR
_CANCELLED = grpc.StatusCode.CANCELLED.value[0]

FAILURES = {
    # Workers were killed five times while they had it, or the storage was away each time.
    *("OPERATION_GAVE_UP", "STORE_BUSY", "STORE_OUTCOME_UNKNOWN", "CONTENT_STORE_UNAVAILABLE"),
    "OPERATION_CANCELLED",
}
"""Why an operation may fail that nothing is wrong with."""
_OF_ONE_METHOD = {
    # Announced, and when its time came somebody else had the name.
    "Update": {"RESOURCE_ALREADY_EXISTS"},
}


def reason_of(operation: operation_pb2.Operation) -> str:
    """ErrorInfo.reason of a failed operation."""
    info = error_details_pb2.ErrorInfo()
    for detail in operation.error.details:
        if detail.Unpack(info):
            return info.reason
    return ""


class Client:
    """One thread and the images that only it changes. All choices are those of its generator."""

    def __init__(self, fleet: Fleet, journal: Journal, source: ObjectServer, seed: str) -> None:
        self._fleet = fleet
        self._journal = journal
        self._source = source
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._open: list[Entry] = []
        self._ended: list[Entry] = []
        self._pictures: list[Picture] = []
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._journal.violated("a client never came to its end")

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and not self._journal.violations:
                self._step()
                self._stop.wait(self._random.uniform(0.0, 0.05))
            self._settle_all()
        except Exception as error:
            self._journal.violated(f"client: {error!r}")

    # --- calls ------------------------------------------------------------------------------------

    def _key(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def call(self, method: str, request: Message, key: str = "") -> Any:
        """The answer, or `Refused`, whatever happens to the servers meanwhile."""
        metadata = (("idempotency-key", key),) if key else ()
        deadline = time.monotonic() + _OUTCOME_SECONDS
        lost = False
        number = self._random.randrange(2)
        while time.monotonic() < deadline and not self._journal.abandoned.is_set():
            stub = self._fleet.stub(number)
            number += 1
            if stub is None:
                time.sleep(_PAUSE_SECONDS)
                continue
            services = stub.operations if method in ("GetOperation", "Cancel") else stub.images
            act = getattr(services, method.removesuffix("Operation"))
            answer = _outcome(partial(act, request, metadata=metadata, timeout=_CALL_SECONDS))
            if answer is None or (isinstance(answer, Refused) and answer.code in _UNCERTAIN):
                self._journal.count("calls without an outcome")
                lost = True
                time.sleep(_PAUSE_SECONDS)
                continue
            if isinstance(answer, Refused):
                if answer.code not in _REFUSALS:
                    self._journal.violated(f"{method}: {answer.code} {answer.message} {request}")
                if lost and key:
                    self._journal.uncertain.add(key)
            return answer
        raise TimeoutError(f"{method} has no outcome")

    # --- what it does -----------------------------------------------------------------------------

    def _step(self) -> None:
        self._settle()
        free = self._free("READY")
        acts: list[tuple[float, Callable[[], None]]] = [(0.5, self._look_back), (0.5, self._list)]
        if len(self._pictures) < _MAX_PICTURES:
            acts.append((6, self._import))
            if free:
                acts.append((3, lambda: self._derive(self._random.choice(free))))
        if free:
            acts.append((3, lambda: self._update(self._random.choice(free))))
        if gone := free + self._free("ERROR"):
            acts.append((1 + len(self._pictures), lambda: self._delete(self._random.choice(gone))))
        if doomed := [each for each in self._open if each.doomed and not each.cancelled]:
            acts.append((1, lambda: self._cancel(self._random.choice(doomed))))
        weights = [weight for weight, _ in acts]
        self._random.choices([act for _, act in acts], weights)[0]()

    def _free(self, status: str) -> list[Picture]:
        """Its images in that status on which nothing is under way."""
        busy = {each.picture.key for each in self._open}
        return [each for each in self._pictures if each.status == status and each.key not in busy]

    def _name(self) -> str:
        return self._random.choice(NAMES) if self._random.random() < 0.4 else ""

    def _import(self) -> None:
        name = MISSING if self._random.random() < 0.05 else self._random.choice(SOURCES)
        self._create(name, uri=self._source.url(name))

    def _derive(self, parent: Picture) -> None:
        self._create(parent.source, image_id=parent.image_id)

    def _create(self, source: str, **fields: Any) -> None:
        key, name = self._key(), self._name()
        labels = {"key": key, "version": "0"}
        request = image_service_pb2.CreateImageRequest(
            folder_id=FOLDER, name=name, labels=labels, **fields
        )
        operation = self.call("Create", request, key)
        if isinstance(operation, Refused):
            if operation.code is not grpc.StatusCode.ALREADY_EXISTS:
                self._journal.violated(f"Create: {operation.message} {request}")
            return
        metadata = image_service_pb2.CreateImageMetadata()
        operation.metadata.Unpack(metadata)
        picture = Picture(key, source, metadata.image_id, labels, name)
        self._pictures.append(picture)
        self._begun(Entry(operation.id, "Create", request, key, picture, {"status": "READY"}))

    def _update(self, picture: Picture) -> None:
        key, name = self._key(), self._name()
        labels = {**picture.labels, "version": str(int(picture.labels["version"]) + 1)}
        request = image_service_pb2.UpdateImageRequest(
            image_id=picture.image_id,
            update_mask=field_mask_pb2.FieldMask(paths=["name", "labels"]),
            name=name,
            labels=labels,
        )
        self._change(picture, "Update", request, key, {"name": name, "labels": labels})

    def _delete(self, picture: Picture) -> None:
        request = image_service_pb2.DeleteImageRequest(image_id=picture.image_id)
        self._change(picture, "Delete", request, self._key(), {"status": "GONE"})

    def _change(
        self, picture: Picture, method: str, request: Message, key: str, becomes: dict[str, Any]
    ) -> None:
        operation = self.call(method, request, key)
        if isinstance(operation, Refused):
            if key in self._journal.uncertain:
                # Perhaps an API process that stood still does it after all: nobody can tell.
                self._journal.uncertain.add(picture.key)
                self._pictures.remove(picture)
            elif operation.code is not grpc.StatusCode.ALREADY_EXISTS:
                self._journal.violated(f"{method} of {picture}: {operation.message}")
            return
        self._begun(Entry(operation.id, method, request, key, picture, becomes))

    def _begun(self, entry: Entry) -> None:
        entry.doomed = self._random.random() < 0.15
        self._open.append(entry)
        self._journal.begun(entry)

    def _cancel(self, entry: Entry) -> None:
        request = operation_service_pb2.CancelOperationRequest(operation_id=entry.operation_id)
        operation = self.call("Cancel", request)
        if isinstance(operation, Refused):
            self._journal.violated(f"an acknowledged operation is lost: {entry.operation_id}")
            return
        # If it is done, the cancel came too late or has ended it: a look will tell.
        self._journal.count("cancels")
        if not operation.done:
            entry.cancelled = True

    def _look_back(self) -> None:
        """What has ended stays as it is, and its call, sent once more, begins nothing."""
        if not self._ended:
            return
        entry = self._random.choice(self._ended)
        self.compare(entry)

    def _list(self) -> None:
        """Each name once, and its own images as it was told they are."""
        request = image_service_pb2.ListImagesRequest(folder_id=FOLDER, page_size=1000)
        images = self.call("List", request).images
        named = Counter(each.name for each in images if each.name and each.status != ERROR)
        if twice := [name for name, number in named.items() if number > 1]:
            self._journal.violated(f"names of several images: {twice}")
        listed = {each.id: (each.name, dict(each.labels)) for each in images}
        for picture in self._free("READY"):
            if listed.get(picture.image_id) != (picture.name, picture.labels):
                shown = listed.get(picture.image_id)
                self._journal.violated(f"listed as {shown}, not as {picture}")

    def compare(self, entry: Entry) -> None:
        """Ask for an ended operation in both ways. Thread-safe for clients that have ended."""
        request = operation_service_pb2.GetOperationRequest(operation_id=entry.operation_id)
        found = self.call("GetOperation", request)
        if found != entry.ended:
            self._journal.violated(f"an end has changed: {entry.ended} is now {found}")
        again = self.call(entry.method, entry.request, entry.key)
        if isinstance(again, Refused) or again.id != entry.operation_id:
            self._journal.violated(f"{entry.key} was {entry.operation_id}, again it is {again}")

    # --- how it ends ------------------------------------------------------------------------------

    def _settle(self) -> None:
        for entry in list(self._open):
            request = operation_service_pb2.GetOperationRequest(operation_id=entry.operation_id)
            operation = self.call("GetOperation", request)
            if isinstance(operation, Refused):
                self._journal.violated(f"an acknowledged operation is lost: {entry.operation_id}")
            elif operation.done:
                self._open.remove(entry)
                self._end(entry, operation)

    def _end(self, entry: Entry, operation: operation_pb2.Operation) -> None:
        entry.ended = operation
        picture = entry.picture
        if entry.succeeded:
            if entry.cancelled:
                self._journal.violated(f"cancelled, and succeeded: {entry.operation_id}")
            for name, value in entry.becomes.items():
                setattr(picture, name, value)
            self._check_response(entry, operation)
        else:
            reason = reason_of(operation)
            expected = FAILURES | _OF_ONE_METHOD.get(entry.method, set())
            if picture.source == MISSING:
                expected = expected | {"SOURCE_NOT_FOUND_AT_URL"}
            if reason not in expected:
                self._journal.violated(f"{entry.operation_id} failed: {operation.error}")
            if entry.method == "Create":
                kept = entry.request.uri and operation.error.code != _CANCELLED  # type: ignore[attr-defined]
                picture.status = "ERROR" if kept else "GONE"
        if picture.status == "GONE":
            self._pictures.remove(picture)
        self._ended.append(entry)
        self._journal.ended(entry)

    def _check_response(self, entry: Entry, operation: operation_pb2.Operation) -> None:
        if entry.method == "Delete":
            return
        image, picture = image_pb2.Image(), entry.picture
        operation.response.Unpack(image)
        told = image.id, image.status, image.name, dict(image.labels)
        wanted = picture.image_id, image_pb2.Image.READY, picture.name, picture.labels
        if told != wanted:
            self._journal.violated(f"{entry.operation_id} answers {told}, not {wanted}")

    def _settle_all(self) -> None:
        deadline = time.monotonic() + _OUTCOME_SECONDS
        while self._open and not self._journal.violations:
            self._settle()
            if time.monotonic() > deadline:
                left = [each.operation_id for each in self._open]
                self._journal.violated(f"operations that do not end: {left}")
            time.sleep(0.05)

    @property
    def ended(self) -> list[Entry]:
        """Its operations, once it has come to its end."""
        return self._ended


def _outcome(act: Callable[[], Any]) -> Any:
    """The answer, `Refused`, or None where the channel was closed meanwhile."""
    try:
        return answered(act)
    except ValueError:
        return None
