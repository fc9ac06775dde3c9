"""Create an image from another resource (rows only) or from a URL (a real import in a worker).

The operator's catalogue has two sources more: a file, imported like a URL, and nothing at all.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from darkroom.domain import errors
from darkroom.domain.access import AccessBinding
from darkroom.domain.content import Content, content_id
from darkroom.domain.image import Image, default_min_disk_size_bytes
from darkroom.domain.operation import IMAGE_CREATE, Claim, Operation
from darkroom.domain.resource import HardwareGeneration, Os, Status, encoded
from darkroom.imaging import local_file
from darkroom.imaging.contents import ContentStore
from darkroom.imaging.conversion import Converted, Converter
from darkroom.imaging.fetch import Fetched, Fetcher
from darkroom.imaging.fetch_limits import FetchLimits
from darkroom.imaging.inspection import Inspection, InspectionLimits, inspect
from darkroom.imaging.room import storage_failure
from darkroom.imaging.sources import source_identity
from darkroom.operations.deriving import ResourceSource, inherited, os_of
from darkroom.operations.desk import Begun, Opening, wall_clock_us
from darkroom.operations.effect import Effect
from darkroom.operations.running import PhasedWatch, Publish
from darkroom.storage.port import Transaction
from darkroom.storage.sealing import KeyUnknown
from darkroom.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from darkroom.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UriSource:
    uri: str

    def identity(self) -> dict[str, Any]:
        """Without its signature: signing a URL anew changes nothing."""
        return {"uri": source_identity(self.uri)}


@dataclass(frozen=True)
class FileSource:
    """A file beside the server. Only the operator's catalogue names one, never a request."""

    path: Path

    def identity(self) -> dict[str, Any]:
        return {"file": str(self.path)}


@dataclass(frozen=True)
class BlankSource:
    """No content: the image reads as zeros. Only the operator's catalogue says so."""

    size_bytes: int

    def identity(self) -> dict[str, Any]:
        return {"blank": self.size_bytes}


Source = UriSource | ResourceSource | FileSource | BlankSource


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
    image_id: str = ""
    """A fixed id instead of a fresh one; an image in ERROR that has it is made anew."""
    bindings: tuple[AccessBinding, ...] = ()
    """Access bindings that the image has from its first moment."""

    def identity(self) -> dict[str, Any]:
        """The whole request, a URL without its signature."""
        values = {name: encoded(value) for name, value in self.__dict__.items()}
        values["source"] = self.source.identity()
        values["labels"] = dict(self.labels)
        values["bindings"] = [vars(binding) for binding in self.bindings]
        return values

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        image = self._image(opening)
        if self.image_id:
            image = self._instead(tx, image)
        match self.source:
            case UriSource(uri):
                return self._imported(tx, opening, image, sealed=opening.seal(uri))
            case FileSource(path):
                return self._imported(tx, opening, image, file=str(path))
            case BlankSource(size_bytes):
                return self._blank(opening, image, size_bytes)
            case source:
                return self._from_resource(tx, opening, image, source)

    def _instead(self, tx: Transaction, image: Image) -> Image:
        """The image in place of the failed one with its id. Raises `Failure` if that is none."""
        failed = tx.resource(Image, image.id)
        if failed is None:
            return image
        conflicting = tx.unfinished_operation_on(image.id)
        if conflicting is not None:
            raise errors.conflicting_operation(conflicting)
        if failed.status is not Status.ERROR:
            raise errors.resource_already_exists(Image.NOUN, failed.name)
        tx.delete_resource(failed.id)
        # As old as before: trying again must not make it the latest of its family.
        return replace(image, created_at_us=failed.created_at_us)

    def _image(self, opening: Opening) -> Image:
        return Image(
            id=self.image_id or opening.new_id(),
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

    def _imported(
        self, tx: Transaction, opening: Opening, image: Image, *, sealed: str = "", file: str = ""
    ) -> Begun:
        tx.insert_resource(image)
        for binding in self.bindings:
            tx.add_binding(image.id, binding)
        payload: dict[str, Any] = {"min_disk_size_bytes": self.min_disk_size_bytes}
        if file:
            payload["file"] = file
        return Begun(
            opening.operation(self.kind, self.folder_id, image.id), payload=payload, sealed=sealed
        )

    def _blank(self, opening: Opening, image: Image, size_bytes: int) -> Begun:
        minimum_bytes = min_disk_size_bytes(self.min_disk_size_bytes, size_bytes)
        return self._ready(
            opening,
            replace(
                image,
                status=Status.READY,
                size_bytes=size_bytes,
                min_disk_size_bytes=minimum_bytes,
            ),
        )

    def _from_resource(
        self, tx: Transaction, opening: Opening, image: Image, given: ResourceSource
    ) -> Begun:
        source = given.locked(tx)
        taken = inherited(source)
        taken["os"] = os_of(self.os, source.os)
        taken["product_ids"] = tuple(dict.fromkeys(source.product_ids + self.product_ids))
        if self.hardware_generation is not None:
            taken["hardware_generation"] = self.hardware_generation
        minimum_bytes = min_disk_size_bytes(self.min_disk_size_bytes, source.size_bytes)
        image = replace(image, **taken, min_disk_size_bytes=minimum_bytes)
        return self._ready(opening, image)

    def _ready(self, opening: Opening, image: Image) -> Begun:
        bound = image.id if self.bindings else ""
        return Begun(
            opening.operation(self.kind, self.folder_id, image.id, response=image.to_record()),
            effect=Effect(made=image, bound=bound, add=self.bindings),
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
    """Runs Create with `uri`, or from a file of the catalogue: fetch, inspect, convert, publish."""

    def __init__(
        self,
        *,
        open_sealed: Callable[[str, str], str],
        fetcher: Fetcher,
        inspection_limits: InspectionLimits,
        converter: Converter,
        contents: ContentStore,
        scratch: Path,
        max_file_bytes: int = FetchLimits.max_bytes,
        clock_us: Callable[[], int] = wall_clock_us,
        metrics: "Metrics | None" = None,
    ) -> None:
        """`max_file_bytes` bounds a file of the catalogue, as the fetcher does a download.

        `scratch` is on the file system of the local content store, so publishing is a rename."""
        self._open_sealed = open_sealed
        self._fetcher = fetcher
        self._inspection_limits = inspection_limits
        self._converter = converter
        self._contents = contents
        self._scratch = scratch
        self._max_file_bytes = max_file_bytes
        self._clock_us = clock_us
        self._metrics = metrics
        self.phases: tuple[tuple[str, Callable[[_Import], None]], ...] = (
            ("fetch", self._fetch),
            ("inspect", self._inspect),
            ("convert", self._convert),
            ("publish", self._publish),
        )

    def run(self, claim: Claim, watch: PhasedWatch) -> Publish:
        self._converter.ensure_available()
        folder = self._folder(claim)
        try:
            (folder / "out").mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise storage_failure(error) from error
        attempt = _Import(claim, watch, folder)
        for name, phase in self.phases:
            watch.enter(name)
            failpoint(f"import.{name}")
            phase(attempt)
            watch.check()
        return lambda tx: self._record(tx, attempt)

    def clean(self, claim: Claim) -> None:
        failpoint("scratch.clean")
        shutil.rmtree(self._folder(claim), ignore_errors=True)

    def _folder(self, claim: Claim) -> Path:
        return self._scratch / content_id(claim.lease.operation_id, claim.lease.fence)

    def _fetch(self, attempt: _Import) -> None:
        claim = attempt.claim
        if "file" in claim.payload:
            path = Path(claim.payload["file"])
            limit_bytes = self._max_file_bytes
            attempt.fetched = local_file.copy(path, attempt.source, limit_bytes, attempt.watch)
            return
        try:
            uri = self._open_sealed(claim.lease.operation_id, claim.sealed)
        except (KeyUnknown, ValueError):
            log.error("URL cannot be opened: no key of the secret key file sealed it")
            raise errors.source_url_unreadable() from None
        attempt.fetched = self._fetcher.fetch(uri, attempt.source, attempt.watch)
        if self._metrics is not None:
            self._metrics.bytes_in.inc(attempt.fetched.size_bytes)

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
        assert attempt.converted is not None
        lease = attempt.claim.lease
        self._contents.put(
            content_id(lease.operation_id, lease.fence),
            attempt.target,
            attempt.converted.sha256,
            attempt.watch,
        )
        if self._metrics is not None:
            self._metrics.bytes_out.inc(attempt.converted.stored_size_bytes)
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
