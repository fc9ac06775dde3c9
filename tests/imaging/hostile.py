"""Files that nobody should convert, and the reason each of them must be refused with."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imaging.images import MIB, converted, disk, footed, gpt, qemu_img

Build = Callable[[Path, Path], None]
"""An empty folder for parts, and the file to make."""


@dataclass(frozen=True)
class Hostile:
    name: str
    reason: str
    build: Build


BY_INSPECTION: list[Hostile] = []
"""Refused before qemu sees them."""
BY_CONVERSION: list[Hostile] = []
"""Their headers are right; what is wrong shows when the tables are followed."""


def _refused(reason: str, where: list[Hostile] = BY_INSPECTION) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        where.append(Hostile(build.__name__.strip("_"), reason, build))
        return build

    return register


def _bytes(name: str, reason: str, data: bytes) -> None:
    BY_INSPECTION.append(Hostile(name, reason, lambda _, path: _write(path, data)))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _patch(path: Path, offset: int, kind: str, *values: int | bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(kind, *values))


def _field(path: Path, offset: int, kind: str) -> int:
    data = path.read_bytes()
    return int(struct.unpack_from(kind, data, offset)[0])


def _plain_qcow2(folder: Path, path: Path, options: str = "") -> None:
    converted(disk(folder / "plain.raw"), path, "qcow2", options)


def _qcow2_patch(name: str, reason: str, offset: int, kind: str, *values: int) -> None:
    def build(folder: Path, path: Path) -> None:
        _plain_qcow2(folder, path)
        _patch(path, offset, kind, *values)

    BY_INSPECTION.append(Hostile(f"qcow2_{name}", reason, build))


# --- not disk images ------------------------------------------------------------------------------

_page = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>" + b"x" * 4096
_bytes("empty", "IMAGE_CORRUPT", b"")
_bytes("almost_a_vmdk_descriptor", "IMAGE_CORRUPT", b"\x0b" * 512 + b"\xff" * 512)
_bytes("html", "IMAGE_IS_A_PAGE", _page)
_bytes("html_after_blank_lines_and_bom", "IMAGE_IS_A_PAGE", b"\xef\xbb\xbf \n\n" + _page)
_bytes(
    "s3_error",
    "IMAGE_IS_A_PAGE",
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>',
)
_bytes("json", "IMAGE_IS_A_PAGE", b'{"error": "not found"}')
_bytes("text", "IMAGE_IS_A_PAGE", "образ диска\n".encode() * 200)
_bytes("gzip", "IMAGE_IS_AN_ARCHIVE", gzip.compress(os.urandom(2000)))
_bytes("xz", "IMAGE_IS_AN_ARCHIVE", lzma.compress(os.urandom(2000)))
_bytes("lzma", "IMAGE_IS_AN_ARCHIVE", lzma.compress(b"x" * 5000, lzma.FORMAT_ALONE))
_bytes("bzip2", "IMAGE_IS_AN_ARCHIVE", bz2.compress(os.urandom(2000)))
_bytes("zstd", "IMAGE_IS_AN_ARCHIVE", b"\x28\xb5\x2f\xfd" + os.urandom(2000))
_bytes("lz4", "IMAGE_IS_AN_ARCHIVE", b"\x04\x22\x4d\x18" + os.urandom(2000))
_bytes("seven_zip", "IMAGE_IS_AN_ARCHIVE", b"7z\xbc\xaf\x27\x1c" + os.urandom(2000))
_bytes("rar", "IMAGE_IS_AN_ARCHIVE", b"Rar!\x1a\x07\x01\0" + os.urandom(2000))
_bytes("cpio", "IMAGE_IS_AN_ARCHIVE", b"070701" + os.urandom(2000))


@_refused("IMAGE_IS_AN_ARCHIVE")
def _zip(_: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("disk.raw", os.urandom(4096))


@_refused("IMAGE_IS_AN_ARCHIVE")
def _ova(_: Path, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("vm.ovf", "vm-disk1.vmdk"):
            entry = tarfile.TarInfo(name)
            entry.size = 4096
            archive.addfile(entry, io.BytesIO(os.urandom(4096)))


# --- formats we do not take -----------------------------------------------------------------------


def _foreign(image_format: str, reason: str, options: str = "") -> None:
    def build(folder: Path, path: Path) -> None:
        converted(disk(folder / "plain.raw"), path, image_format, options)

    BY_INSPECTION.append(Hostile(f"{image_format}_{options}".strip("_"), reason, build))


_foreign("vpc", "IMAGE_FORMAT_UNSUPPORTED")
_foreign("vpc", "IMAGE_FORMAT_UNSUPPORTED", "subformat=fixed")
_foreign("vhdx", "IMAGE_FORMAT_UNSUPPORTED")
_foreign("vdi", "IMAGE_FORMAT_UNSUPPORTED")
_foreign("qed", "IMAGE_FORMAT_UNSUPPORTED")
_foreign("qcow", "IMAGE_FORMAT_UNSUPPORTED")
_foreign("parallels", "IMAGE_FORMAT_UNSUPPORTED")
_bytes("bochs", "IMAGE_FORMAT_UNSUPPORTED", b"Bochs Virtual HD Image".ljust(4096, b"\0"))
_bytes("cowd", "IMAGE_FORMAT_UNSUPPORTED", b"COWD\1\0\0\0".ljust(4096, b"\0"))
_bytes("dmg", "IMAGE_FORMAT_UNSUPPORTED", os.urandom(8192) + b"koly".ljust(512, b"\0"))
_bytes("luks", "IMAGE_ENCRYPTED", b"LUKS\xba\xbe\0\1" + os.urandom(8192))

# --- qcow2: fields at their offsets, see docs/interop/qcow2.txt of QEMU ---------------------------

_qcow2_patch("version_4", "IMAGE_FORMAT_UNSUPPORTED", 4, ">I", 4)
_qcow2_patch("aes", "IMAGE_ENCRYPTED", 32, ">I", 1)
_qcow2_patch("luks", "IMAGE_ENCRYPTED", 32, ">I", 2)
_qcow2_patch("cluster_bits_8", "IMAGE_CORRUPT", 20, ">I", 8)
_qcow2_patch("cluster_bits_22", "IMAGE_CORRUPT", 20, ">I", 22)
_qcow2_patch("cluster_bits_huge", "IMAGE_CORRUPT", 20, ">I", 0xFFFFFFFF)
_qcow2_patch("no_size", "IMAGE_CORRUPT", 24, ">Q", 0)
_qcow2_patch("l1_too_small_for_2_to_62", "IMAGE_CORRUPT", 24, ">Q", 1 << 62)
_qcow2_patch("l1_of_2_to_28_entries", "IMAGE_CORRUPT", 36, ">I", 1 << 28)
_qcow2_patch("l1_elsewhere", "IMAGE_TRUNCATED", 40, ">Q", 1 << 40)
_qcow2_patch("l1_not_aligned", "IMAGE_CORRUPT", 40, ">Q", 0x30001)
_qcow2_patch("l1_is_the_refcount_table", "IMAGE_CORRUPT", 40, ">Q", 0x10000)
_qcow2_patch("refcounts_elsewhere", "IMAGE_TRUNCATED", 48, ">Q", 1 << 40)
_qcow2_patch("refcounts_nowhere", "IMAGE_CORRUPT", 48, ">Q", 0)
_qcow2_patch("refcount_table_empty", "IMAGE_CORRUPT", 56, ">I", 0)
_qcow2_patch("refcount_table_huge", "IMAGE_CORRUPT", 56, ">I", 0xFFFFFFFF)
_qcow2_patch("marked_corrupt", "IMAGE_CORRUPT", 72, ">Q", 2)
_qcow2_patch("data_file_bit", "IMAGE_HAS_DATA_FILE", 72, ">Q", 4)
_qcow2_patch("compression_without_bit", "IMAGE_FEATURE_UNSUPPORTED", 104, ">B", 1)
_qcow2_patch("unknown_feature", "IMAGE_FEATURE_UNSUPPORTED", 72, ">Q", 1 << 5)
_qcow2_patch("unknown_feature_63", "IMAGE_FEATURE_UNSUPPORTED", 72, ">Q", 1 << 63)
_qcow2_patch("refcount_order_7", "IMAGE_CORRUPT", 96, ">I", 7)
_qcow2_patch("header_length_96", "IMAGE_CORRUPT", 100, ">I", 96)
_qcow2_patch("header_length_huge", "IMAGE_CORRUPT", 100, ">I", 0xFFFFFFF8)
_qcow2_patch("extension_huge", "IMAGE_CORRUPT", 112, ">II", 0x12345678, 0xFFFFFFF0)
_qcow2_patch("data_file_extension", "IMAGE_HAS_DATA_FILE", 112, ">II", 0x44415441, 8)
_qcow2_patch("encryption_extension", "IMAGE_ENCRYPTED", 112, ">II", 0x0537BE77, 16)
_qcow2_patch("and_partition_table", "IMAGE_AMBIGUOUS", 510, ">H", 0x55AA)
_qcow2_patch("and_iso", "IMAGE_AMBIGUOUS", 0x8000, ">Q", 0x0143443030310100)  # ".CD001.."
_bytes("qcow2_header_only", "IMAGE_TRUNCATED", b"QFI\xfb" + struct.pack(">I", 3))


@_refused("IMAGE_HAS_BACKING_FILE")
def _qcow2_backing_file(folder: Path, path: Path) -> None:
    secret = disk(folder / "secret.raw")
    qemu_img("create", "-f", "qcow2", "-b", secret, "-F", "raw", path)


def _backed_by(folder: Path, path: Path, name: str) -> None:
    disk(folder / "secret.raw")
    qemu_img("create", "-u", "-f", "qcow2", "-b", name, "-F", "raw", path, "1M")


@_refused("IMAGE_HAS_BACKING_FILE")
def _qcow2_relative_backing_file(folder: Path, path: Path) -> None:
    _backed_by(folder, path, "parts/secret.raw")


@_refused("IMAGE_HAS_BACKING_FILE")
def _qcow2_json_backing_file(folder: Path, path: Path) -> None:
    _backed_by(folder, path, _json_name(folder / "secret.raw"))


def _json_name(path: Path) -> str:
    """How QEMU lets a file name choose the driver that opens it."""
    return f'json:{{"driver":"file","filename":"{path}"}}'


@_refused("IMAGE_HAS_DATA_FILE")
def _qcow2_json_data_file(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    name = _json_name(disk(folder / "data.raw")).encode()
    _patch(path, 72, ">Q", 4)
    _patch(path, 112, f">II{-(-len(name) // 8) * 8}sQ", 0x44415441, len(name), name, 0)


@_refused("IMAGE_HAS_DATA_FILE")
def _qcow2_data_file(folder: Path, path: Path) -> None:
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={folder / 'data.raw'}", path, "1M")


@_refused("IMAGE_HAS_SNAPSHOTS")
def _qcow2_snapshot(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    qemu_img("snapshot", "-c", "before", path)


@_refused("IMAGE_FEATURE_UNSUPPORTED")
def _qcow2_extended_l2(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path, "extended_l2=on")


@_refused("IMAGE_TOO_LARGE")
def _qcow2_60_tib(_: Path, path: Path) -> None:
    qemu_img("create", "-f", "qcow2", "-o", "cluster_size=2M", path, "60T")


@_refused("IMAGE_TOO_LARGE")
def _raw_5_tib(_: Path, path: Path) -> None:
    gpt(path)
    os.truncate(path, 5 * 1024**4)


def _bomb(path: Path, size: int) -> None:
    """A few hundred KiB that claim `size` bytes of data: every L1 entry names the same table."""
    qemu_img("create", "-f", "qcow2", path, str(size))
    cluster = 65536
    l1_offset, l1_entries = _field(path, 40, ">Q"), _field(path, 36, ">I")
    table = -(-(l1_offset + l1_entries * 8) // cluster) * cluster
    data = table + cluster
    with path.open("r+b") as file:
        file.seek(l1_offset)
        file.write(struct.pack(">Q", table) * l1_entries)
        file.seek(table)
        file.write(struct.pack(">Q", data) * (cluster // 8))
        file.seek(data)
        file.write(b"\x5a" * cluster)


@_refused("IMAGE_CORRUPT")
def _qcow2_bomb_of_4_gib(_: Path, path: Path) -> None:
    _bomb(path, 4 * 1024**3)


@_refused("IMAGE_CORRUPT")
def _qcow2_bomb_of_4_tib(_: Path, path: Path) -> None:
    _bomb(path, 4 * 1024**4)


@_refused("IMAGE_TRUNCATED")
def _qcow2_table_elsewhere(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    _patch(path, _field(path, 40, ">Q"), ">Q", 1 << 63 | 1 << 40)


@_refused("IMAGE_TRUNCATED")
def _qcow2_cut_before_its_tables(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    os.truncate(path, 0x10000)


# --- VMDK -----------------------------------------------------------------------------------------


def _plain_vmdk(folder: Path, path: Path, subformat: str = "monolithicSparse") -> None:
    converted(disk(folder / "plain.raw"), path, "vmdk", f"subformat={subformat}")


def _edit_descriptor(path: Path, edit: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    size = struct.unpack_from("<Q", data, 36)[0] * 512
    text = edit(data[512 : 512 + size].rstrip(b"\0"))
    assert len(text) <= size
    path.write_bytes(data[:512] + text.ljust(size, b"\0") + data[512 + size :])


def _vmdk_descriptor(name: str, reason: str, old: bytes, new: bytes) -> None:
    def build(folder: Path, path: Path) -> None:
        def edit(text: bytes) -> bytes:
            assert old in text
            return text.replace(old, new, 1)

        _plain_vmdk(folder, path)
        _edit_descriptor(path, edit)

    BY_INSPECTION.append(Hostile(f"vmdk_{name}", reason, build))


_KIND = b'createType="monolithicSparse"'
_vmdk_descriptor("flat_kind", "IMAGE_EXTENTS_ELSEWHERE", _KIND, b'createType="monolithicFlat"')
_vmdk_descriptor(
    "kind_in_a_comment", "IMAGE_EXTENTS_ELSEWHERE", _KIND, b"#" + _KIND + b'\ncreateType="vmfs"'
)
_vmdk_descriptor("two_kinds", "IMAGE_EXTENTS_ELSEWHERE", _KIND, _KIND + b'\ncreateType="vmfs"')
_vmdk_descriptor("no_kind", "IMAGE_EXTENTS_ELSEWHERE", _KIND, b"")
_vmdk_descriptor("parent", "IMAGE_HAS_BACKING_FILE", b"parentCID=ffffffff", b"parentCID=12345678")
_vmdk_descriptor(
    "parent_hint", "IMAGE_HAS_BACKING_FILE", _KIND, _KIND + b'\nparentFileNameHint="/etc/passwd"'
)
_vmdk_descriptor("flat_extent", "IMAGE_EXTENTS_ELSEWHERE", b" SPARSE ", b" FLAT ")
_vmdk_descriptor("two_extents", "IMAGE_EXTENTS_ELSEWHERE", b"RW ", b'RW 8 SPARSE "passwd"\nRW ')
_vmdk_descriptor("extent_with_path", "IMAGE_EXTENTS_ELSEWHERE", b'SPARSE "', b'SPARSE "/etc/')
_vmdk_descriptor("noise", "IMAGE_CORRUPT", _KIND, _KIND + b"\nwhat is this")


def _vmdk_patch(name: str, reason: str, offset: int, kind: str, *values: int) -> None:
    def build(folder: Path, path: Path) -> None:
        _plain_vmdk(folder, path)
        _patch(path, offset, kind, *values)

    BY_INSPECTION.append(Hostile(f"vmdk_{name}", reason, build))


_vmdk_patch("version_9", "IMAGE_FEATURE_UNSUPPORTED", 4, "<I", 9)
_vmdk_patch("no_capacity", "IMAGE_EXTENTS_ELSEWHERE", 12, "<Q", 0)
_vmdk_patch("8_eib", "IMAGE_EXTENTS_ELSEWHERE", 12, "<Q", 1 << 54)
_vmdk_patch("huge_capacity", "IMAGE_TRUNCATED", 12, "<Q", 1 << 40)
_vmdk_patch("odd_grain", "IMAGE_CORRUPT", 20, "<Q", 100)
_vmdk_patch("no_grain", "IMAGE_CORRUPT", 20, "<Q", 0)
_vmdk_patch("descriptor_elsewhere", "IMAGE_CORRUPT", 28, "<Q", 1 << 30)
_vmdk_patch("descriptor_huge", "IMAGE_CORRUPT", 36, "<Q", 1 << 50)
_vmdk_patch("table_entries", "IMAGE_CORRUPT", 44, "<I", 1 << 30)
_vmdk_patch("directory_elsewhere", "IMAGE_TRUNCATED", 56, "<Q", 1 << 50)
_vmdk_patch("text_conversion", "IMAGE_CORRUPT", 73, "<I", 0x0A0A0A0A)
_vmdk_patch("compression_7", "IMAGE_FEATURE_UNSUPPORTED", 77, "<H", 7)
_vmdk_patch("and_partition_table", "IMAGE_AMBIGUOUS", 510, ">H", 0x55AA)


@_refused("IMAGE_EXTENTS_ELSEWHERE")
def _vmdk_flat(folder: Path, path: Path) -> None:
    secret = folder / "secret"
    secret.write_bytes(os.urandom(MIB))
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        f'RW 2048 FLAT "{secret}" 0\n'
    )


@_refused("IMAGE_EXTENTS_ELSEWHERE")
def _vmdk_descriptor_that_lies(_: Path, path: Path) -> None:
    path.write_text(
        '# Disk DescriptorFile\n# createType="monolithicSparse"\nversion=1\nCID=1\n'
        'parentCID=ffffffff\ncreateType="monolithicSparse"\nRW 2048 FLAT "passwd" 0\n'
    )


@_refused("IMAGE_TRUNCATED")
def _vmdk_sparse_cut(folder: Path, path: Path) -> None:
    _plain_vmdk(folder, path)
    os.truncate(path, path.stat().st_size - 1000)


@_refused("IMAGE_TRUNCATED")
def _vmdk_stream_cut(folder: Path, path: Path) -> None:
    _plain_vmdk(folder, path, "streamOptimized")
    os.truncate(path, path.stat().st_size - 100_000)  # zeros follow the last grain


@_refused("IMAGE_TRUNCATED")
def _vmdk_footer_cut(folder: Path, path: Path) -> None:
    footed(disk(folder / "plain.raw"), path)
    os.truncate(path, path.stat().st_size - 512)


@_refused("IMAGE_CORRUPT")
def _vmdk_footer_differs(folder: Path, path: Path) -> None:
    footed(disk(folder / "plain.raw"), path)
    _patch(path, path.stat().st_size - 1024 + 12, "<Q", 1 << 20)


@_refused("IMAGE_CORRUPT")
def _vmdk_footer_after_footer(folder: Path, path: Path) -> None:
    footed(disk(folder / "plain.raw"), path)
    _patch(path, path.stat().st_size - 1024 + 56, "<Q", 0xFFFFFFFFFFFFFFFF)


def _grain_table(path: Path) -> int:
    directory = _field(path, 56, "<Q") * 512
    return _field(path, directory, "<I") * 512


@_refused("IMAGE_TRUNCATED")
def _vmdk_grain_elsewhere(folder: Path, path: Path) -> None:
    _plain_vmdk(folder, path)
    _patch(path, _grain_table(path), "<I", 1 << 30)


@_refused("IMAGE_TRUNCATED")
def _vmdk_table_elsewhere(folder: Path, path: Path) -> None:
    _plain_vmdk(folder, path)
    _patch(path, _field(path, 56, "<Q") * 512, "<I", 1 << 30)


@_refused("IMAGE_CORRUPT")
def _vmdk_one_table_for_all(_: Path, path: Path) -> None:
    qemu_img("create", "-f", "vmdk", path, "1G")
    directory = _field(path, 56, "<Q") * 512
    table = _field(path, directory, "<I")
    _patch(path, directory, "<32I", *[table] * 32)


# --- headers in order, contents not ---------------------------------------------------------------


def _first_table(path: Path) -> int:
    return _field(path, _field(path, 40, ">Q"), ">Q") & 0x00FFFFFFFFFFFE00


@_refused("IMAGE_TRUNCATED", BY_CONVERSION)
def _qcow2_cluster_elsewhere(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    _patch(path, _first_table(path), ">Q", 1 << 63 | 1 << 40)


@_refused("IMAGE_TRUNCATED", BY_CONVERSION)
def _qcow2_compressed_cluster_elsewhere(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    _patch(path, _first_table(path), ">Q", 1 << 62 | 1 << 40)


@_refused("IMAGE_CORRUPT", BY_CONVERSION)
def _qcow2_refcount_block_elsewhere(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    _patch(path, _field(path, 48, ">Q"), ">Q", 1 << 40)


@_refused("IMAGE_CORRUPT", BY_CONVERSION)
def _qcow2_overlapping_clusters(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    table = _first_table(path)
    _patch(path, table + 8, ">Q", _field(path, table, ">Q"))


@_refused("IMAGE_CORRUPT", BY_CONVERSION)
def _qcow2_bomb_in_one_table(_: Path, path: Path) -> None:
    _bomb(path, 256 * MIB)  # one L2 table covers 512 MiB: no L1 entry is used twice


@_refused("IMAGE_TRUNCATED", BY_CONVERSION)
def _qcow2_cut_in_half(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    os.truncate(path, path.stat().st_size // 2)


@_refused("IMAGE_TRUNCATED", BY_CONVERSION)
def _qcow2_last_cluster_cut(folder: Path, path: Path) -> None:
    _plain_qcow2(folder, path)
    os.truncate(path, path.stat().st_size - 1000)


@_refused("IMAGE_CORRUPT", BY_CONVERSION)
def _qcow2_damaged_zlib(folder: Path, path: Path) -> None:
    raw = folder / "plain.raw"
    raw.write_bytes(b"".join(os.urandom(64) * 256 for _ in range(256)))
    converted(raw, path, "qcow2", "", "-c")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 8000)
        file.write(os.urandom(7000))


@_refused("IMAGE_CORRUPT", BY_CONVERSION)
def _vmdk_damaged_stream(folder: Path, path: Path) -> None:
    raw = folder / "plain.raw"
    raw.write_bytes(b"".join(os.urandom(64) * 256 for _ in range(256)))
    converted(raw, path, "vmdk", "subformat=streamOptimized")
    with path.open("r+b") as file:
        file.seek(70_000)
        file.write(os.urandom(20_000))


@_refused("IMAGE_OUTGROWS_LIMIT", BY_CONVERSION)
def _qcow2_more_than_may_be_stored(folder: Path, path: Path) -> None:
    # The tests allow 16 MiB. Honest data: what compresses well may be large when unpacked.
    raw = folder / "plain.raw"
    raw.write_bytes(b"\x5a" * (24 * MIB))
    converted(raw, path, "qcow2", "", "-c")
