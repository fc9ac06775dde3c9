"""What strangers' bytes reach first, each as a function of bytes that raises on a defect.

`make fuzz` drives them by coverage; `make test` replays the corpus that was found so.
"""

import contextlib
import os
import tempfile
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError, Message

from darkroom.api import catalog_file, reflection  # noqa: F401  registers health and reflection
from darkroom.api.iam_tokens import _issuer
from darkroom.api.status import refusal
from darkroom.api.tokens import Tokens
from darkroom.api.validation import Report, Validator
from darkroom.config import Settings
from darkroom.domain import errors, listing, query
from darkroom.domain.errors import Failure
from darkroom.domain.image import Image
from darkroom.imaging import qcow2
from darkroom.imaging.inspection import InspectionLimits, inspect
from darkroom.imaging.layout import Layout
from darkroom.imaging.sources import SourcePolicy, parse_endpoint, redacted, source_identity
from darkroom.operations.catalog import CatalogError
from darkroom.storage.sqlite import SqliteStore
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_service_pb2,
    image_service_pb2,
    snapshot_service_pb2,
)
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2

CORPUS = Path(__file__).with_name("corpus")

Target = Callable[[bytes], None]

_FOLDER = Path(tempfile.mkdtemp(prefix="darkroom-fuzz-"))


def corpus(name: str) -> list[bytes]:
    """The inputs kept for a target."""
    path = CORPUS / f"{name}.txt"
    if not path.exists():
        return []
    return [zlib.decompress(b64decode(line)) for line in path.read_text().splitlines()]


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Write them, one compressed line each: small, and git shows which came and went."""
    lines = sorted({b64encode(zlib.compress(data, 9)).decode() for data in inputs})
    (CORPUS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def _refused(failure: Failure, prefix: str = "") -> None:
    """A refusal is in order if its reason is of the expected kind and it fits the wire."""
    assert failure.reason.startswith(prefix), failure.reason
    refused = refusal(failure, "request")
    assert sum(len(name) + len(value) for name, value in refused.trailers) < 8192


# --- images ---------------------------------------------------------------------------------------

_IMAGE = os.memfd_create("image")


def image(data: bytes) -> None:
    """The look at a downloaded file: it is refused for a reason about images, or is bounded."""
    os.ftruncate(_IMAGE, 0)
    os.pwrite(_IMAGE, data, 0)
    limits = InspectionLimits(max_virtual_size_bytes=1 << 40)
    try:
        found = inspect(Path(f"/proc/self/fd/{_IMAGE}"), limits)
    except Failure as failure:
        _refused(failure, "IMAGE_")
        return
    assert 0 < found.virtual_size_bytes <= 1 << 40
    assert found.virtual_size_bytes % 512 == 0
    if found.format == "raw":
        assert found.virtual_size_bytes - len(data) in range(512)
    else:
        assert data.startswith(b"QFI\xfb" if found.format == "qcow2" else b"KDMV")
    if found.format == "qcow2":
        # What qemu follows to other files stands in these fields.
        assert data[8:20] == bytes(12)
        with contextlib.suppress(Failure):
            qcow2.require_data(Layout(_IMAGE, len(data)), lambda: None)


# --- requests -------------------------------------------------------------------------------------

_REQUESTS: tuple[type[Message], ...] = (
    image_service_pb2.CreateImageRequest,
    image_service_pb2.UpdateImageRequest,
    image_service_pb2.ListImagesRequest,
    disk_service_pb2.CreateDiskRequest,
    snapshot_service_pb2.CreateSnapshotRequest,
    iam_token_service_pb2.CreateIamTokenRequest,
)
_VALIDATOR = Validator()


def request(data: bytes) -> None:
    """The validator: any message that parses is judged, and the judgement can be sent."""
    message_type = _REQUESTS[data[0] % len(_REQUESTS)] if data else _REQUESTS[0]
    try:
        message = message_type.FromString(data[1:])
    except DecodeError:
        return
    report: Report = []
    descriptor: Any = message_type.DESCRIPTOR
    _VALIDATOR.compile(descriptor)(message, "", report)
    if report:
        _refused(errors.request_invalid(report), "REQUEST_")


# --- listings -------------------------------------------------------------------------------------

_STORE = SqliteStore(_FOLDER / "metadata.sqlite", lease_seconds=10.0)
_STORE.migrate()


def listing_text(data: bytes) -> None:
    """Filter and order: what is understood, a database can run."""
    text = data.decode(errors="replace")
    filter_text, _, order_text = text.partition("\x1e")
    try:
        conditions = query.parse_filter(filter_text[:1000])
        order = query.parse_order(order_text[:100])
    except Failure as failure:
        _refused(failure, "REQUEST_")
        return
    assert order[-1].field == "id"
    assert _STORE.find(Image, query.Query("folder", conditions, order), 1) == []


def page_token(data: bytes) -> None:
    """Page tokens: no token makes the reader stumble, every position survives its token."""
    text = data.decode(errors="replace")
    try:
        listing.decode_page_token(("method", "folder"), text, (str, int))
    except Failure as failure:
        _refused(failure, "PAGE_TOKEN_")
    # Somebody who knows how a digest is made.
    forged = b64encode(listing._digest(("method",), data) + data, b"-_").rstrip(b"=").decode()
    try:
        listing.decode_page_token(("method",), forged, (str, int))
    except Failure as failure:
        _refused(failure, "PAGE_TOKEN_")
    position = (text.replace("\0", ""), int.from_bytes(data[:7], "big"))
    token = listing.encode_page_token(("method",), position)
    assert listing.decode_page_token(("method",), token, (str, int)) == position


# --- sources --------------------------------------------------------------------------------------

_ALLOWED = "https://storage.example.net/bucket/"
_POLICY = SourcePolicy([parse_endpoint(_ALLOWED)])


def source_url(data: bytes) -> None:
    """URLs: what passes is read the same way by another reader; a signature is never shown."""
    url = data.decode(errors="replace")
    assert "SIGNATURE" not in redacted(url + "?X-Amz-Signature=SIGNATURE").replace(url, "")
    source_identity(url)
    try:
        checked = _POLICY.check(url)
    except Failure as failure:
        _refused(failure, "SOURCE_")
        return
    parts = urlsplit(url)
    assert parts.scheme == checked.scheme == "https"
    assert parts.username is None and parts.password is None
    assert parts.hostname is not None and (parts.port or 443) == checked.port == 443
    host = parts.hostname.rstrip(".")
    assert host == checked.host
    below_host = host == "storage.example.net" and f"{parts.path}/".startswith("/bucket/")
    assert below_host or host == "bucket.storage.example.net"
    assert "/../" not in f"{parts.path}/" and "/./" not in f"{parts.path}/"
    assert "?" not in checked.shown


# --- files and tokens -----------------------------------------------------------------------------

_CATALOG = _FOLDER / "catalog.yaml"
_SETTINGS = Settings(catalog=str(_CATALOG))


def catalog(data: bytes) -> None:
    """The catalogue file: read whole or refused with its faults."""
    _CATALOG.write_bytes(data)
    with contextlib.suppress(CatalogError):
        catalog_file.read(_SETTINGS)


_TOKENS = Tokens(sign=lambda _: bytes(64), verify=lambda _body, _signature: False)


def token(data: bytes) -> None:
    """Bearer tokens that nobody signed, and JSON Web Tokens."""
    assert not _TOKENS.subject(data.decode(errors="replace"))
    # Random bytes are hardly ever base64, so that is done for them.
    jwt = ".".join(b64encode(part, b"-_").rstrip(b"=").decode() for part in data.split(b"\x1e"))
    try:
        assert _issuer(jwt)
    except Failure as failure:
        _refused(failure, "REQUEST_")


TARGETS: dict[str, Target] = {
    "catalog": catalog,
    "image": image,
    "listing": listing_text,
    "page_token": page_token,
    "request": request,
    "source_url": source_url,
    "token": token,
}
