"""Random creations, derivations, growth, deletions, crashes and collections against a model.

The promise: whatever anybody refers to is on disk, byte for byte, at every moment; after a
collection nothing else is.
"""

import hashlib
import shutil
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from content_storage import BUCKET, Storage
from darkroom.domain.content import Content, content_id
from darkroom.domain.disk import Disk
from darkroom.domain.errors import Failure
from darkroom.domain.image import Image
from darkroom.domain.operation import IMAGE_CREATE, Claim, Operation
from darkroom.domain.resource import Resource, Status
from darkroom.domain.snapshot import Snapshot
from darkroom.imaging.contents import ContentStore, LocalContents
from darkroom.imaging.s3_calls import Calls
from darkroom.imaging.s3_contents import S3Contents
from darkroom.operations.changing import Delete, Update
from darkroom.operations.deriving import ResourceSource
from darkroom.operations.desk import Caller, Command, Operations
from darkroom.operations.disk_create import CreateDisk
from darkroom.operations.image_create import CreateImage, ImageCreateEnding, UriSource
from darkroom.operations.snapshot_create import CreateSnapshot
from darkroom.storage.port import Transaction
from darkroom.storage.sqlite import SqliteStore
from darkroom.worker.collector import Collector
from imaging.watches import ManualWatch

CALLER = Caller("tester")
STEP_BYTES = 4 * 1024 * 1024
URL = "https://storage.yandexcloud.net/bucket/disk.qcow2"
EXTRA_STEPS = st.integers(0, 3)
PICKS = st.integers(0, 255)

KINDS: tuple[type[Resource], ...] = (Image, Disk, Snapshot)


def whole_steps(size_bytes: int) -> int:
    """The smallest size of a disk that holds this much."""
    return -(-size_bytes // STEP_BYTES) * STEP_BYTES


@dataclass(frozen=True)
class Expected:
    """A resource as the model knows it; `content` is None for zeros only."""

    kind: type[Resource]
    id: str
    size_bytes: int
    content: str | None
    minimum_bytes: int = 0


class Contents(RuleBasedStateMachine):
    """The front desk, a worker's attempts at imports, and the collector, on real files."""

    gone: Bundle[str] = Bundle("gone")
    attempts: Bundle[Claim] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="darkroom-model-"))
        self.store = SqliteStore(self.folder / "metadata.sqlite", lease_seconds=3600)
        self.store.migrate()
        self.contents = self.open_contents()
        (self.folder / "scratch").mkdir()
        self.collector = Collector(self.store, self.contents, self.folder / "scratch")
        self.desk = Operations(
            self.store, {IMAGE_CREATE: ImageCreateEnding()}, lambda _id, secret: secret
        )
        self.model: dict[str, Expected] = {}
        self.running: set[str] = set()
        """Contents that a running attempt has published and may still refer to."""
        self.written: dict[str, bytes] = {}
        self.serial = 0

    def open_contents(self) -> ContentStore:
        return LocalContents(self.folder / "contents")

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    # --- what the model is compared with ----------------------------------------------------------

    def begun(self, command: Command) -> Operation:
        return self.desk.begin(command, CALLER)

    def derived(self, command: Command, expected: Expected) -> None:
        """Begin what must succeed, and note it in the model."""
        operation = self.begun(command)
        assert operation.done and operation.error is None
        self.model[operation.resource_id] = replace(expected, id=operation.resource_id)

    def refused(self, command: Command, reason: str) -> None:
        with pytest.raises(Failure) as caught:
            self.begun(command)
        assert caught.value.reason == reason

    def those(self, *kinds: type[Resource]) -> list[Expected]:
        return [each for each in self.model.values() if each.kind in kinds]

    def one(self, pick: int, *kinds: type[Resource]) -> Expected:
        """One of those that there are, by a number of any size."""
        found = self.those(*kinds)
        return found[pick % len(found)]

    def referred(self) -> set[str]:
        return {each.content for each in self.model.values() if each.content is not None}

    def on_disk(self) -> dict[str, bytes]:
        return {
            path.name.removesuffix(".qcow2"): path.read_bytes()
            for path in (self.folder / "contents").iterdir()
        }

    @invariant()
    def everything_referred_to_is_whole(self) -> None:
        found = self.on_disk()
        for content in self.referred() | self.running:
            assert found.get(content) == self.written[content]
        assert found.items() <= self.written.items()

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        for each in self.model.values():
            row = self.store.get(each.kind, each.id)
            assert row is not None and row.status is Status.READY
            assert (row.size_bytes, row.content_id) == (each.size_bytes, each.content)
            if isinstance(row, Image):
                assert row.min_disk_size_bytes == each.minimum_bytes

    # --- imports: every moment at which a worker may die ------------------------------------------

    @rule(target=attempts)
    def publish(self) -> Claim:
        """Begin an import and run it up to the moment before its transaction."""
        self.begun(CreateImage("folder", UriSource(URL)))
        return self._attempted()

    @rule(target=attempts, dead=consumes(attempts))
    def die_and_publish_again(self, dead: Claim) -> Claim:
        """The lease goes to another attempt; what the first one published is debris."""
        self._lost(dead)
        return self._attempted()

    @rule(dead=consumes(attempts))
    def die_and_be_cancelled(self, dead: Claim) -> None:
        self._lost(dead)
        self.desk.cancel(dead.operation.id)
        assert self.store.get(Image, dead.operation.resource_id) is None

    @rule(claim=consumes(attempts), steps=st.integers(1, 3), odd=st.booleans())
    def finish(self, claim: Claim, steps: int, odd: bool) -> None:
        """The import's transaction; the virtual size need not be a whole number of steps."""
        lease, image_id = claim.lease, claim.operation.resource_id
        content = content_id(lease.operation_id, lease.fence)
        size_bytes = steps * STEP_BYTES - 512 * odd
        stored = len(self.written[content])

        def change(tx: Transaction) -> None:
            image = tx.resource(Image, image_id)
            assert image is not None and image.status is Status.CREATING
            tx.insert_content(Content(content, size_bytes, stored, "", "", 0))
            image = replace(
                image,
                status=Status.READY,
                size_bytes=size_bytes,
                min_disk_size_bytes=steps * STEP_BYTES,
                content_id=content,
            )
            tx.update_resource(image)
            assert tx.finish_leased(lease, 0, response=image.to_record())

        self.store.write(change)
        self.running.remove(content)
        self.model[image_id] = Expected(Image, image_id, size_bytes, content, steps * STEP_BYTES)

    def _attempted(self) -> Claim:
        claim = self.store.claim("worker")
        assert claim is not None
        content = content_id(claim.lease.operation_id, claim.lease.fence)
        self.serial += 1
        self.written[content] = f"content {self.serial}".encode()
        path = self.folder / "made"
        path.write_bytes(self.written[content])
        digest = hashlib.sha256(self.written[content]).hexdigest()
        self.contents.put(content, path, digest, ManualWatch())
        self.running.add(content)
        return claim

    def _lost(self, claim: Claim) -> None:
        assert self.store.put_back(claim.lease, 0, count_attempt=True)
        self.running.remove(content_id(claim.lease.operation_id, claim.lease.fence))

    # --- derivation -------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 3))
    def make_empty_disk(self, steps: int) -> None:
        size_bytes = steps * STEP_BYTES
        self.derived(CreateDisk("folder", "zone", size_bytes), Expected(Disk, "", size_bytes, None))

    @precondition(lambda self: self.model)
    @rule(pick=PICKS, extra=EXTRA_STEPS)
    def make_image(self, pick: int, extra: int) -> None:
        """Of anything; with `extra` its smallest disk is larger than it has to be."""
        source = self.one(pick, *KINDS)
        least_bytes = whole_steps(source.size_bytes)
        wanted_bytes = least_bytes + extra * STEP_BYTES if extra else 0
        given = ResourceSource(source.kind, source.id)
        self.derived(
            CreateImage("folder", given, min_disk_size_bytes=wanted_bytes),
            replace(source, kind=Image, minimum_bytes=wanted_bytes or least_bytes),
        )

    @precondition(lambda self: self.those(Image, Snapshot))
    @rule(pick=PICKS, extra=EXTRA_STEPS)
    def make_disk(self, pick: int, extra: int) -> None:
        """Of an image or a snapshot, at least as large as that asks for."""
        source = self.one(pick, Image, Snapshot)
        given = ResourceSource(source.kind, source.id)
        least_bytes = whole_steps(max(source.minimum_bytes, source.size_bytes))
        too_small = CreateDisk("folder", "zone", least_bytes - STEP_BYTES, given)
        self.refused(too_small, "MIN_DISK_SIZE_TOO_SMALL")
        size_bytes = least_bytes + extra * STEP_BYTES
        self.derived(
            CreateDisk("folder", "zone", size_bytes, given),
            Expected(Disk, "", size_bytes, source.content),
        )

    @precondition(lambda self: self.those(Disk))
    @rule(pick=PICKS)
    def make_snapshot(self, pick: int) -> None:
        disk = self.one(pick, Disk)
        self.derived(CreateSnapshot("folder", disk.id), replace(disk, kind=Snapshot))

    @rule(source_id=gone)
    def derive_from_what_is_gone(self, source_id: str) -> None:
        for kind in KINDS:
            given = ResourceSource(kind, source_id)
            self.refused(CreateImage("folder", given), "SOURCE_NOT_FOUND")
            self.refused(CreateDisk("folder", "zone", STEP_BYTES, given), "SOURCE_NOT_FOUND")
        self.refused(CreateSnapshot("folder", source_id), "SOURCE_NOT_FOUND")

    # --- change and deletion ----------------------------------------------------------------------

    @precondition(lambda self: self.those(Disk))
    @rule(pick=PICKS, extra=EXTRA_STEPS)
    def grow_a_disk(self, pick: int, extra: int) -> None:
        disk = self.one(pick, Disk)
        size_bytes = disk.size_bytes + extra * STEP_BYTES
        self.begun(Update(Disk, disk.id, {"size_bytes": size_bytes}))
        self.model[disk.id] = replace(disk, size_bytes=size_bytes)

    @precondition(lambda self: self.those(Image))
    @rule(pick=PICKS, extra=EXTRA_STEPS)
    def ask_for_larger_disks(self, pick: int, extra: int) -> None:
        image = self.one(pick, Image)
        minimum_bytes = image.size_bytes + extra * STEP_BYTES
        self.begun(Update(Image, image.id, {"min_disk_size_bytes": minimum_bytes}))
        self.model[image.id] = replace(image, minimum_bytes=minimum_bytes)

    @precondition(lambda self: self.model)
    @rule(target=gone, pick=PICKS)
    def delete(self, pick: int) -> str:
        return self._deleted(self.one(pick, *KINDS))

    @precondition(lambda self: self.model)
    @rule(kind=st.sampled_from(KINDS))
    def keep_only(self, kind: type[Resource]) -> None:
        """Contents that hang on one kind alone: chance seldom gets there."""
        for row in self.those(*KINDS):
            if row.kind is not kind:
                self._deleted(row)

    def _deleted(self, row: Expected) -> str:
        del self.model[row.id]
        assert self.begun(Delete(row.kind, row.id)).done
        assert self.store.get(row.kind, row.id) is None
        return row.id

    @precondition(lambda self: self.on_disk())
    @rule()
    def collect(self) -> None:
        self.collector.collect()
        assert self.on_disk().keys() == self.referred() | self.running


Contents.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestContents = Contents.TestCase


class InObjectStorage(Contents):
    """The same on S3, where a dead attempt may leave half an upload as well."""

    storage: ClassVar[Storage]
    calls: ClassVar[Calls]

    def __init__(self) -> None:
        self.prefix = f"model-{uuid.uuid4()}"
        self.read: dict[tuple[str, str], bytes] = {}
        super().__init__()

    def open_contents(self) -> ContentStore:
        return S3Contents(self.calls, self.prefix)

    def on_disk(self) -> dict[str, bytes]:
        listed = self.storage.client.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix)
        found = {}
        for each in listed.get("Contents", ()):
            key = each["Key"]
            version = key, each["ETag"]
            if version not in self.read:
                body = self.storage.client.get_object(Bucket=BUCKET, Key=key)["Body"]
                self.read[version] = body.read()
            found[key.removeprefix(f"{self.prefix}/").removesuffix(".qcow2")] = self.read[version]
        return found

    @rule(dead=consumes(Contents.attempts))
    def die_in_the_middle_of_an_upload(self, dead: Claim) -> None:
        self._lost(dead)
        self.desk.cancel(dead.operation.id)
        name = content_id(dead.operation.id, dead.lease.fence + 1)
        key = f"{self.prefix}/{name}.qcow2"
        self.storage.client.create_multipart_upload(Bucket=BUCKET, Key=key)
        self.collector.collect()
        assert self.storage.uploads(self.prefix) == []


def test_contents_in_object_storage(storage: Storage, calls: Calls) -> None:
    InObjectStorage.storage, InObjectStorage.calls = storage, calls
    few = settings(
        Contents.TestCase.settings, max_examples=6, stateful_step_count=25, derandomize=True
    )
    run_state_machine_as_test(InObjectStorage, settings=few)
