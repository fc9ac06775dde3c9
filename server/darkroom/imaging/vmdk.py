"""The header and descriptor of a VMDK (VMware, Virtual Disk Format 1.1), every field distrusted."""

import re
import struct
from array import array
from dataclasses import dataclass

from darkroom.domain import errors
from darkroom.imaging.layout import Layout

_SECTOR = 512
_HEADER = struct.Struct("<4sIIQQQQIQQQ?4sH")
_GRAIN_MARKER = struct.Struct("<QI")
_NEWLINES = b"\n \r\n"
_AT_END = 0xFFFFFFFFFFFFFFFF
_MARKER_FOOTER, _MARKER_END = 3, 0
_TABLE_ENTRIES = 512
_MIN_GRAIN_SECTORS, _MAX_GRAIN_SECTORS = 8, 2048
_MAX_DESCRIPTOR_SECTORS = 2047
_MAX_CAPACITY_SECTORS = 1 << 54
_COMPRESSED = 1 << 16
_NO_PARENT = "ffffffff"
_SUPPORTED = ("monolithicsparse", "streamoptimized")
_WALKED_TABLES = 4096
"""Grain tables that are looked through: 128 GiB at the usual grain size."""

_SETTING = re.compile(r'([A-Za-z0-9_.]+)\s*=\s*"?([^"]*)"?')
_EXTENT = re.compile(r'(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z]+)(?:\s+"([^"]*)")?(?:\s+\d+)?')


@dataclass(frozen=True)
class _Header:
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor_offset: int
    descriptor_size: int
    table_entries: int
    directory_offset: int
    compression: int

    @classmethod
    def parse(cls, sector: bytes) -> "_Header":
        fields = _HEADER.unpack(sector[: _HEADER.size])
        signature, version, flags, capacity, grain = fields[:5]
        descriptor_offset, descriptor_size, table_entries = fields[5:8]
        _redundant, directory_offset, _overhead, _unclean, newlines, compression = fields[8:]
        if signature != b"KDMV":
            raise errors.image_corrupt("its footer is not a header")
        if newlines != _NEWLINES:
            raise errors.image_corrupt("its header went through a text conversion")
        return cls(
            version,
            flags,
            capacity,
            grain,
            descriptor_offset,
            descriptor_size,
            table_entries,
            directory_offset,
            compression,
        )


def examine(layout: Layout) -> int:
    """The virtual size in bytes.

    Raises `Failure` IMAGE_* unless the file is one whole monolithicSparse or streamOptimized
    VMDK that names no other file.
    """
    header = _Header.parse(layout.read(0, _SECTOR, "its header"))
    if header.version not in (1, 2, 3):
        raise errors.image_feature_unsupported(f"VMDK version {header.version}")
    _examine_descriptor(layout, header)
    if not 0 < header.capacity < _MAX_CAPACITY_SECTORS:
        # qemu takes a capacity of zero as an invitation to follow the descriptor elsewhere.
        raise errors.image_extents_elsewhere("its own extent is empty")
    if header.directory_offset == _AT_END:
        header = _footer(layout, header)
    if header.compression not in (0, 1):
        raise errors.image_feature_unsupported(f"compression type {header.compression}")
    grain = header.grain
    if grain & (grain - 1) or not _MIN_GRAIN_SECTORS <= grain <= _MAX_GRAIN_SECTORS:
        raise errors.image_corrupt("its grain size is out of range")
    if header.table_entries != _TABLE_ENTRIES:
        raise errors.image_corrupt("its grain tables have an impossible size")
    _examine_grains(layout, header)
    return header.capacity * _SECTOR


def _examine_descriptor(layout: Layout, header: _Header) -> None:
    if header.descriptor_offset != 1 or not 0 < header.descriptor_size <= _MAX_DESCRIPTOR_SECTORS:
        raise errors.image_corrupt("its descriptor is not where it belongs")
    data = layout.read(_SECTOR, header.descriptor_size * _SECTOR, "its descriptor")
    try:
        text = data.partition(b"\0")[0].decode("ascii")
    except UnicodeDecodeError:
        raise errors.image_corrupt("its descriptor is not plain text") from None
    settings, extents = _parse_descriptor(text)
    kinds = settings.get("createtype", [])
    # Readers differ in which mention they take, and some take one inside a comment.
    if len(kinds) != 1 or text.lower().count("createtype") != 1:
        raise errors.image_extents_elsewhere("its kind is not stated exactly once")
    if kinds[0].lower() not in _SUPPORTED:
        raise errors.image_extents_elsewhere(_shown(kinds[0]))
    if [value.lower() for value in settings.get("parentcid", [_NO_PARENT])] != [_NO_PARENT]:
        raise errors.image_has_backing_file()
    if "parentfilenamehint" in settings:
        raise errors.image_has_backing_file()
    if len(extents) != 1 or extents[0][3] != "SPARSE":
        raise errors.image_extents_elsewhere("it does not consist of one sparse extent")
    if set(extents[0][4] or "") & set("/\\:"):
        raise errors.image_extents_elsewhere("its extent has a path")


def _parse_descriptor(text: str) -> tuple[dict[str, list[str]], list[re.Match[str]]]:
    """Settings, by lower-case name with every value given, and extent lines."""
    settings: dict[str, list[str]] = {}
    extents = []
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        if match := _EXTENT.fullmatch(line):
            extents.append(match)
        elif match := _SETTING.fullmatch(line):
            settings.setdefault(match[1].lower(), []).append(match[2])
        else:
            raise errors.image_corrupt("its descriptor has a line that means nothing")
    return settings, extents


def _shown(kind: str) -> str:
    return kind if re.fullmatch(r"[A-Za-z0-9]{1,32}", kind) else "an unknown kind"


def _footer(layout: Layout, header: _Header) -> _Header:
    """The header at the end of a stream, which alone knows where the tables are."""
    end = layout.size_bytes
    if end < 4 * _SECTOR:
        raise errors.image_truncated("its footer is missing")
    marker, footer, end_marker = (
        layout.read(end - sectors * _SECTOR, _SECTOR, "its footer") for sectors in (3, 2, 1)
    )
    _value, size, kind = struct.unpack("<QII", marker[:16])
    if (size, kind) != (0, _MARKER_FOOTER) or any(end_marker[:16]):
        raise errors.image_truncated("its footer is missing")
    found = _Header.parse(footer)
    same = ("version", "flags", "capacity", "grain", "table_entries", "compression")
    if any(getattr(found, name) != getattr(header, name) for name in same):
        raise errors.image_corrupt("its header and its footer contradict each other")
    if found.directory_offset == _AT_END:
        raise errors.image_corrupt("its footer names another footer")
    return found


def _examine_grains(layout: Layout, header: _Header) -> None:
    """Whether the tables, and the data they point to, are inside the file."""
    covered = header.grain * _TABLE_ENTRIES
    tables = -(-header.capacity // covered)
    layout.require(header.directory_offset * _SECTOR, tables * 4, "its grain directory")
    if not header.directory_offset:
        raise errors.image_corrupt("its grain directory is not where a table can be")
    walked = min(tables, _WALKED_TABLES)
    directory = array("I", layout.read(header.directory_offset * _SECTOR, walked * 4, "a table"))
    table_bytes = _TABLE_ENTRIES * 4
    last = 0
    seen = set()
    for offset in directory:
        if not offset:
            continue
        if offset in seen:
            raise errors.image_corrupt("the same grain table is used more than once")
        seen.add(offset)
        table = array("I", layout.read(offset * _SECTOR, table_bytes, "a grain table"))
        last = max(last, max(table))
    if last > 1:  # 0 and 1 stand for zeros
        layout.require(last * _SECTOR, _grain_bytes(layout, header, last), "its last grain")


def _grain_bytes(layout: Layout, header: _Header, sector: int) -> int:
    if not header.flags & _COMPRESSED:
        return header.grain * _SECTOR
    marker = layout.read(sector * _SECTOR, _GRAIN_MARKER.size, "its last grain")
    _first_sector, length = _GRAIN_MARKER.unpack(marker)
    return _GRAIN_MARKER.size + int(length)
