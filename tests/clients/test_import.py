"""Create with `uri` from the call to the stored bytes, over the wire, with real images."""

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from darkroom.domain.errors import CATALOGUE
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2
from installation import Installation, installation, same_content, until
from object_server import SIGNATURE, ObjectServer

MIB = 1 << 20


@pytest.fixture
def darkroom(cleared: Installation) -> Installation:
    """Shared: a server of its own for each would take longer than what is tested."""
    return cleared


@pytest.fixture
def source(cleared_source: ObjectServer) -> ObjectServer:
    return cleared_source


def image_id_of(operation: operation_pb2.Operation) -> str:
    metadata = image_service_pb2.CreateImageMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata.image_id


def reason_of(operation: operation_pb2.Operation) -> str:
    for detail in operation.error.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    raise AssertionError("no ErrorInfo")


def qemu(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def partitioned(folder: Path) -> Path:
    """A raw disk with an MBR, a boot signature and data behind them."""
    path = folder / "partitioned.raw"
    entry = bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little")
    entry += (8192).to_bytes(4, "little")
    sector = os.urandom(446) + entry + bytes(48) + b"\x55\xaa"
    path.write_bytes(sector + bytes(2047 * 512) + os.urandom(4 * MIB))
    return path


def made(folder: Path, disk: Path, kind: str) -> tuple[Path, str]:
    """An image of the kind, and the format to read it as."""
    if kind == "raw partitioned":
        return partitioned(folder), "raw"
    format_name, _, options = kind.partition(" ")
    path = folder / f"disk-{kind.replace(' ', '-')}.{format_name}"
    compressed = ["-c"] if "compression_type" in options else []
    more = ["-o", options] if options else []
    qemu("convert", "-f", "qcow2", "-O", format_name, *compressed, *more, disk, path)
    return path, format_name


@pytest.mark.parametrize(
    "kind",
    [
        "qcow2 compat=0.10",
        "qcow2 compression_type=zlib",
        "qcow2 compression_type=zstd",
        "vmdk subformat=monolithicSparse",
        "vmdk subformat=streamOptimized",
        "raw",
        "raw partitioned",
    ],
)
def test_every_accepted_format_comes_out_ready_and_identical(
    darkroom: Installation, source: ObjectServer, disk: Path, tmp_path: Path, kind: str
) -> None:
    path, format_name = made(source.folder, disk, kind)
    created = darkroom.create(
        source.url(path.name), name="imported", description="d", labels={"k": "v"}, family="fam"
    )
    assert not created.done
    assert created.description == "Create image"
    assert created.created_at == created.modified_at
    image_id = image_id_of(created)
    assert darkroom.image(image_id).status in (image_pb2.Image.CREATING, image_pb2.Image.READY)
    operation = darkroom.done(created.id)
    image = image_pb2.Image()
    assert operation.response.Unpack(image), operation
    assert image == darkroom.image(image_id)
    assert (image.status, image.name, image.family) == (image_pb2.Image.READY, "imported", "fam")
    assert image.HasField("os") and image.os.type == image_pb2.Os.LINUX
    assert image.HasField("hardware_generation")
    virtual_size = path.stat().st_size if format_name == "raw" else 24 * MIB
    assert image.size == virtual_size
    assert image.min_disk_size == -(-virtual_size // (4 * MIB)) * 4 * MIB
    (content,) = darkroom.contents()
    assert image.storage_size == content.stat().st_size
    exported = tmp_path / "exported.qcow2"
    darkroom.export(image_id, exported)
    assert same_content(path, format_name, exported, "qcow2")


def page(folder: Path, disk: Path) -> None:
    (folder / "object").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")


def xml(folder: Path, disk: Path) -> None:
    (folder / "object").write_text('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')


def empty(folder: Path, disk: Path) -> None:
    (folder / "object").touch()


def archive(folder: Path, disk: Path) -> None:
    (folder / "object").write_bytes(gzip.compress(disk.read_bytes()[:MIB]))


def truncated(folder: Path, disk: Path) -> None:
    (folder / "object").write_bytes(disk.read_bytes()[: 5 * MIB])


def backed(folder: Path, disk: Path) -> None:
    qemu("create", "-f", "qcow2", "-b", disk, "-F", "qcow2", folder / "object")


def external(folder: Path, disk: Path) -> None:
    qemu(
        *("create", "-f", "qcow2", "-o", f"data_file={folder}/data,data_file_raw=on"),
        *(folder / "object", "8M"),
    )


def snapshot(folder: Path, disk: Path) -> None:
    qemu("convert", "-f", "qcow2", "-O", "qcow2", disk, folder / "object")
    qemu("snapshot", "-c", "inner", folder / "object")


def encrypted(folder: Path, disk: Path) -> None:
    qemu("create", "-f", "qcow2", folder / "object", "8M")
    with (folder / "object").open("r+b") as file:
        # The header's crypt_method, 1 for AES: making a real one needs qemu to time the processor,
        # which it cannot on every machine.
        file.seek(32)
        file.write((1).to_bytes(4, "big"))


def elsewhere(folder: Path, disk: Path) -> None:
    qemu("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", folder / "object.vmdk", "8M")
    (folder / "object.vmdk").rename(folder / "object")


def too_large(folder: Path, disk: Path) -> None:
    qemu("create", "-f", "qcow2", folder / "object", "5T")


def missing(folder: Path, disk: Path) -> None:
    (folder / "object").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (page, "IMAGE_IS_A_PAGE"),
        (xml, "IMAGE_IS_A_PAGE"),
        (empty, "SOURCE_EMPTY"),
        (archive, "IMAGE_IS_AN_ARCHIVE"),
        (truncated, "IMAGE_TRUNCATED"),
        (backed, "IMAGE_HAS_BACKING_FILE"),
        (external, "IMAGE_HAS_DATA_FILE"),
        (snapshot, "IMAGE_HAS_SNAPSHOTS"),
        (encrypted, "IMAGE_ENCRYPTED"),
        (elsewhere, "IMAGE_EXTENTS_ELSEWHERE"),
        (too_large, "IMAGE_TOO_LARGE"),
        (missing, "SOURCE_NOT_FOUND_AT_URL"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_its_reason(
    darkroom: Installation,
    source: ObjectServer,
    disk: Path,
    make: Callable[[Path, Path], None],
    reason: str,
) -> None:
    make(source.folder, disk)
    created = darkroom.create(source.url("object"), name="wanted")
    operation = darkroom.done(created.id)
    assert reason_of(operation) == reason, operation
    # What is wrong, and what to do about it, for clients that show nothing but the message.
    assert operation.error.message.endswith(f". {CATALOGUE[reason].advice}")
    for secret in (SIGNATURE, str(darkroom.folder), "Traceback"):
        assert secret not in str(operation)
    # The image stays, visible and deletable, and its name is free at once.
    failed = darkroom.image(image_id_of(created))
    assert (failed.status, failed.name) == (image_pb2.Image.ERROR, "wanted")
    again = darkroom.create(source.url(disk.name), name="wanted")
    assert darkroom.done(again.id).HasField("response")
    darkroom.images.Delete(image_service_pb2.DeleteImageRequest(image_id=failed.id))
    assert [image.id for image in darkroom.listed()] == [image_id_of(again)]
    until(lambda: darkroom.scratch() == [], "the scratch folder to be empty")
    assert len(darkroom.contents()) == 1


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9/images/disk.qcow2",
        "https://storage.yandexcloud.net/images/disk.qcow2",
        "file:///etc/passwd",
        "ftp://127.0.0.1/disk",
        "nonsense",
    ],
)
def test_an_unlisted_source_is_never_asked(darkroom: Installation, uri: str) -> None:
    operation = darkroom.done(darkroom.create(f"{uri}?{SIGNATURE}").id)
    assert reason_of(operation) in ("SOURCE_NOT_ALLOWED", "SOURCE_URL_INVALID")
    assert operation.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert SIGNATURE not in str(operation)


def test_a_minimal_disk_size_below_the_virtual_size_fails_the_operation(
    darkroom: Installation, source: ObjectServer, disk: Path
) -> None:
    created = darkroom.create(source.url(disk.name), min_disk_size=8 * MIB)
    assert reason_of(darkroom.done(created.id)) == "MIN_DISK_SIZE_TOO_SMALL"
    larger = darkroom.create(source.url(disk.name), min_disk_size=64 * MIB)
    darkroom.done(larger.id)
    assert darkroom.image(image_id_of(larger)).min_disk_size == 64 * MIB


@pytest.fixture
def own(tmp_path: Path, source: ObjectServer) -> Iterator[Installation]:
    """Nobody else's."""
    with installation(tmp_path, source.origin) as running:
        yield running


def test_signatures_are_nowhere_in_clear(
    own: Installation, source: ObjectServer, disk: Path
) -> None:
    """Not in logs, not in the database, not in files, while it runs and after the end."""
    own.arm("import.fetch")
    created = own.create(source.url(disk.name))
    own.wait_hit("import.fetch")
    signature = SIGNATURE.partition("=")[2].encode()

    def places() -> list[str]:
        files = [path for path in own.data.rglob("*") if path.is_file()]
        return [str(path) for path in (*files, own.log_path) if signature in path.read_bytes()]

    assert places() == []
    assert SIGNATURE not in str(own.operation(created.id))
    own.let_go("import.fetch")
    assert own.done(created.id).HasField("response")
    failing = own.create(source.url("missing"))
    own.done(failing.id)
    assert places() == []
    own.kill()
    assert places() == []


def test_every_file_is_private(own: Installation, source: ObjectServer, disk: Path) -> None:
    own.done(own.create(source.url(disk.name)).id)
    readable = [
        path
        for path in (own.data, *own.data.rglob("*"))
        if path.stat().st_mode & 0o077 and (path.is_file() or path == own.data)
    ]
    assert readable == []
