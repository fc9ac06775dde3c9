"""Create an image from another image (rows only) or from a URL (a real import in a worker)."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from darkroom.domain import errors
from darkroom.domain.content import Content, content_id
from darkroom.domain.image import Image, default_min_disk_size_bytes
from darkroom.domain.operation import IMAGE_CREATE, Claim, Operation
from darkroom.domain.resource import HardwareGeneration, Os, Status, encoded
from darkroom.imaging.contents import ContentStore
from darkroom.imaging.conversion import Converted, Converter
from darkroom.imaging.fetch import Fetched, Fetcher
from darkroom.imaging.inspection import Inspection, InspectionLimits, inspect
from darkroom.imaging.sources import source_identity
from darkroom.operations.deriving import ResourceSource, inherited, os_of
from darkroom.operations.desk import Begun, Opening, wall_clock_us
from darkroom.operations.effect import Effect
from darkroom.operations.running import PhasedWatch, Publish
from darkroom.storage.port import Transaction
from darkroom.telemetry.failpoints import failpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UriSource:
    uri: str


Source = UriSource | ResourceSource


@dataclass(frozen=True)
class CreateImage:
    """Create an image; `os` and `hardware_generation` are None where the request left them out."""

    kind: ClassVar[str] = IMAGE_CREATE

    folder_id: str
    source: Source
    name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    family: str = ""
    min_disk_size_bytes: int = 0
    product_ids: tuple[str, ...] = ()
    os: Os | None = None
    pooled: bool = False
    hardware_generation: HardwareGeneration | None = None

    def identity(self) -> dict[str, Any]:
        """The whole request, a URL without its signature: signing it anew changes nothing."""
        values = {name: encoded(value) for name, value in self.__dict__.items()}
        source = self.source
        if isinstance(source, UriSource):
            values["source"] = {"uri": source_identity(source.uri)}
        else:
            values["source"] = source.identity()
        values["labels"] = dict(self.labels)
        return values

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        if isinstance(self.source, UriSource):
            return self._from_uri(tx, opening, self.source.uri)
        return self._from_resource(tx, opening, self.source)

    def _image(self, opening: Opening) -> Image:
        return Image(
            id=opening.new_id(),
            folder_id=self.folder_id,
            created_at_us=opening.now_us,
            status=Status.CREATING,
            name=self.name,
            description=self.description,
            labels=dict(self.labels),
            family=self.family,
            min_disk_size_bytes=self.min_disk_size_bytes,
            product_ids=self.product_ids,
            os=os_of(self.os, Os()),
            pooled=self.pooled,
            hardware_generation=self.hardware_generation or HardwareGeneration(),
        )

    def _from_uri(self, tx: Transaction, opening: Opening, uri: str) -> Begun:
        image = self._image(opening)
        tx.insert_resource(image)
        return Begun(
            opening.operation(self.kind, self.folder_id, image.id),
            payload={"min_disk_size_bytes": self.min_disk_size_bytes},
            sealed=opening.seal(uri),
        )

    def _from_resource(self, tx: Transaction, opening: Opening, given: ResourceSource) -> Begun:
        source = given.locked(tx)
        taken = inherited(source)
        taken["os"] = os_of(self.os, source.os)
        taken["product_ids"] = tuple(dict.fromkeys(source.product_ids + self.product_ids))
        if self.hardware_generation is not None:
            taken["hardware_generation"] = self.hardware_generation
        minimum_bytes = min_disk_size_bytes(self.min_disk_size_bytes, source.size_bytes)
        image = replace(self._image(opening), **taken, min_disk_size_bytes=minimum_bytes)
        return Begun(
            opening.operation(self.kind, self.folder_id, image.id, response=image.to_record()),
            effect=Effect(made=image),
        )


def min_disk_size_bytes(requested_bytes: int, virtual_size_bytes: int) -> int:
    """The requested minimum, or the smallest one that fits. Raises `Failure` if it is too small."""
    if not requested_bytes:
        return default_min_disk_size_bytes(virtual_size_bytes)
    if requested_bytes < virtual_size_bytes:
        raise errors.min_disk_size_too_small(virtual_size_bytes)
    return requested_bytes


class ImageCreateEnding:
    """What becomes of an image whose creation does not succeed."""

    def abandon(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        tx.delete_resource(operation.resource_id)

    def fail(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        """The image stays, in ERROR: visible, deletable, its name free for the next attempt."""
        image = tx.resource(Image, operation.resource_id)
        if image is not None:
            tx.update_resource(replace(image, status=Status.ERROR))


@dataclass
class _Import:
    """One attempt at an import: what each phase found, for the phases after it."""

    claim: Claim
    watch: PhasedWatch
    folder: Path
    uri: str
    fetched: Fetched | None = None
    inspection: Inspection | None = None
    converted: Converted | None = None
    min_disk_size_bytes: int = 0

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def target(self) -> Path:
        return self.folder / "out" / "image.qcow2"


class ImageImport(ImageCreateEnding):
    """Runs Create with `uri`: fetch, inspect, convert, publish."""

    def __init__(
        self,
        *,
        open_sealed: Callable[[str, str], str],
        fetcher: Fetcher,
        inspection_limits: InspectionLimits,
        converter: Converter,
        contents: ContentStore,
        scratch: Path,
        clock_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        """`scratch` is on the file system of the local content store, so publishing is a rename."""
        self._open_sealed = open_sealed
        self._fetcher = fetcher
        self._inspection_limits = inspection_limits
        self._converter = converter
        self._contents = contents
        self._scratch = scratch
        self._clock_us = clock_us
        self.phases: tuple[tuple[str, Callable[[_Import], None]], ...] = (
            ("fetch", self._fetch),
            ("inspect", self._inspect),
            ("convert", self._convert),
            ("publish", self._publish),
        )

    def run(self, claim: Claim, watch: PhasedWatch) -> Publish:
        folder = self._folder(claim)
        (folder / "out").mkdir(mode=0o700, parents=True)
        uri = self._open_sealed(claim.lease.operation_id, claim.sealed)
        attempt = _Import(claim, watch, folder, uri)
        for name, phase in self.phases:
            watch.enter(name)
            started = time.monotonic()
            failpoint(f"import.{name}")
            phase(attempt)
            watch.check()
            seconds = round(time.monotonic() - started, 4)
            log.info("phase ended", extra={"fields": {"phase": name, "seconds": seconds}})
        return lambda tx: self._record(tx, attempt)

    def clean(self, claim: Claim) -> None:
        shutil.rmtree(self._folder(claim), ignore_errors=True)

    def _folder(self, claim: Claim) -> Path:
        return self._scratch / content_id(claim.lease.operation_id, claim.lease.fence)

    def _fetch(self, attempt: _Import) -> None:
        attempt.fetched = self._fetcher.fetch(attempt.uri, attempt.source, attempt.watch)

    def _inspect(self, attempt: _Import) -> None:
        attempt.inspection = inspect(attempt.source, self._inspection_limits)
        attempt.min_disk_size_bytes = min_disk_size_bytes(
            attempt.claim.payload["min_disk_size_bytes"], attempt.inspection.virtual_size_bytes
        )

    def _convert(self, attempt: _Import) -> None:
        assert attempt.inspection is not None
        attempt.converted = self._converter.convert(
            attempt.source, attempt.inspection, attempt.target, attempt.watch
        )
        attempt.source.unlink()

    def _publish(self, attempt: _Import) -> None:
        lease = attempt.claim.lease
        self._contents.put(content_id(lease.operation_id, lease.fence), attempt.target)
        failpoint("import.published")

    def _record(self, tx: Transaction, attempt: _Import) -> dict[str, Any]:
        assert attempt.fetched is not None and attempt.converted is not None
        lease, converted = attempt.claim.lease, attempt.converted
        content = Content(
            id=content_id(lease.operation_id, lease.fence),
            virtual_size_bytes=converted.virtual_size_bytes,
            stored_size_bytes=converted.stored_size_bytes,
            sha256=converted.sha256,
            source_sha256=attempt.fetched.sha256,
            created_at_us=self._clock_us(),
        )
        image = tx.resource(Image, attempt.claim.operation.resource_id)
        assert image is not None, "an image in CREATING cannot be deleted"
        tx.insert_content(content)
        image = replace(
            image,
            status=Status.READY,
            size_bytes=converted.virtual_size_bytes,
            storage_size_bytes=converted.stored_size_bytes,
            min_disk_size_bytes=attempt.min_disk_size_bytes,
            content_id=content.id,
        )
        tx.update_resource(image)
        return image.to_record()
