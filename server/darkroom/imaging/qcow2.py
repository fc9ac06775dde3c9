"""The header of a qcow2 file (QEMU, docs/interop/qcow2.txt), every field distrusted."""

import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from darkroom.domain import errors
from darkroom.imaging.layout import Layout

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_V3 = struct.Struct(">QQQII")
_MIN_CLUSTER_BITS, _MAX_CLUSTER_BITS = 9, 21
_MAX_L1_BYTES = 32 * 1024**2
_MAX_REFCOUNT_TABLE_BYTES = 8 * 1024**2
_MAX_REFCOUNT_ORDER = 6
_WALKED_L1_ENTRIES = 64 * 1024
"""L1 tables up to this length are looked through: 32 TiB at the usual cluster size."""
_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_READS_AS_ZEROS = 1
_SECTOR_BITS = 9

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION_TYPE = 1, 2, 4, 8
_BITMAPS = 1  # among the autoclear bits
_KNOWN_FEATURES = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION_TYPE
_FEATURE_NAMES = {16: "extended L2 entries (subclusters)"}

_EXTENSION_END = 0
_EXTENSION_DATA_FILE = 0x44415441
_EXTENSION_ENCRYPTION = 0x0537BE77
_NO_END = 1 << 63


@dataclass(frozen=True)
class Header:
    """What the rest of the import needs to know."""

    virtual_size_bytes: int
    cluster_bytes: int
    dirty: bool
    open_end_bytes: int
    """End of what may stand, incomplete, in the last cluster of a whole file."""


def examine(layout: Layout) -> Header:
    """Raises `Failure` IMAGE_* unless the file is one plain, whole, readable qcow2."""
    header = layout.read(0, _HEADER.size, "its header")
    (
        _magic,
        version,
        backing_offset,
        backing_length,
        cluster_bits,
        size_bytes,
        crypt_method,
        l1_entries,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        snapshots,
        _snapshots_offset,
    ) = _HEADER.unpack(header)
    if version not in (2, 3):
        raise errors.image_format_unsupported(f"a qcow image of version {version}")
    if backing_offset or backing_length:
        raise errors.image_has_backing_file()
    if crypt_method:
        raise errors.image_encrypted()
    if snapshots:
        raise errors.image_has_snapshots()
    if not _MIN_CLUSTER_BITS <= cluster_bits <= _MAX_CLUSTER_BITS:
        raise errors.image_corrupt("its cluster size is out of range")
    cluster_bytes = 1 << cluster_bits
    dirty, bitmaps = (False, False) if version == 2 else _examine_v3(layout, cluster_bytes)
    if not size_bytes or size_bytes % 512:
        raise errors.image_corrupt("its virtual size is zero or not a multiple of 512")
    _examine_tables(
        layout, cluster_bytes, size_bytes, l1_entries, l1_offset, refcount_offset, refcount_clusters
    )
    open_end = _NO_END if bitmaps else l1_offset + l1_entries * 8
    return Header(size_bytes, cluster_bytes, dirty, open_end)


def _examine_v3(layout: Layout, cluster_bytes: int) -> tuple[bool, bool]:
    """The fields and extensions of version 3; whether it is dirty, whether it has bitmaps."""
    fields = layout.read(_HEADER.size, _HEADER_V3.size, "its header")
    incompatible, _compatible, autoclear, refcount_order, length = _HEADER_V3.unpack(fields)
    if incompatible & _DATA_FILE:
        raise errors.image_has_data_file()
    if incompatible & _CORRUPT:
        raise errors.image_corrupt("it is marked as corrupt")
    if unknown := incompatible & ~_KNOWN_FEATURES:
        lowest = unknown & -unknown
        name = _FEATURE_NAMES.get(lowest, f"feature bit {lowest.bit_length() - 1}")
        raise errors.image_feature_unsupported(name)
    if refcount_order > _MAX_REFCOUNT_ORDER:
        raise errors.image_corrupt("its reference counts are too wide")
    if length < _HEADER.size + _HEADER_V3.size or length % 8 or length > cluster_bytes:
        raise errors.image_corrupt("its header has an impossible length")
    compression = 0
    if length > 104:
        compression = layout.read(104, 1, "its header")[0]
    if compression not in (0, 1) or bool(compression) != bool(incompatible & _COMPRESSION_TYPE):
        raise errors.image_feature_unsupported(f"compression type {compression}")
    _examine_extensions(layout, length, cluster_bytes)
    return bool(incompatible & _DIRTY), bool(autoclear & _BITMAPS)


def _examine_extensions(layout: Layout, offset: int, cluster_bytes: int) -> None:
    # They end with an extension of type 0, or with the first cluster.
    while offset + 8 <= cluster_bytes:
        kind, length = struct.unpack(">II", layout.read(offset, 8, "its header"))
        if kind == _EXTENSION_END:
            return
        if kind == _EXTENSION_DATA_FILE:
            raise errors.image_has_data_file()
        if kind == _EXTENSION_ENCRYPTION:
            raise errors.image_encrypted()
        offset += 8 + -(-length // 8) * 8
        if offset > cluster_bytes:
            raise errors.image_corrupt("a header extension is longer than the header")


def _examine_tables(
    layout: Layout,
    cluster_bytes: int,
    size_bytes: int,
    l1_entries: int,
    l1_offset: int,
    refcount_offset: int,
    refcount_clusters: int,
) -> None:
    if l1_entries * 8 > _MAX_L1_BYTES:
        raise errors.image_corrupt("its L1 table is too large")
    covered_by_l1_entry = cluster_bytes * (cluster_bytes // 8)
    if l1_entries < -(-size_bytes // covered_by_l1_entry):
        raise errors.image_corrupt("its L1 table is too small for its virtual size")
    refcount_bytes = refcount_clusters * cluster_bytes
    if not 0 < refcount_bytes <= _MAX_REFCOUNT_TABLE_BYTES:
        raise errors.image_corrupt("its reference count table has an impossible size")
    for offset in (l1_offset, refcount_offset):
        if not offset or offset % cluster_bytes:
            raise errors.image_corrupt("one of its tables is not where a table can be")
    layout.require(l1_offset, l1_entries * 8, "its L1 table")
    layout.require(refcount_offset, refcount_bytes, "its reference count table")
    if l1_offset < refcount_offset + refcount_bytes and refcount_offset < l1_offset + (
        l1_entries * 8
    ):
        raise errors.image_corrupt("its tables overlap")
    if l1_entries <= _WALKED_L1_ENTRIES:
        _examine_l1(layout, cluster_bytes, l1_entries, l1_offset)


def _examine_l1(layout: Layout, cluster_bytes: int, l1_entries: int, l1_offset: int) -> None:
    entries = array("Q", layout.read(l1_offset, l1_entries * 8, "its L1 table"))
    entries.byteswap()
    offsets = [entry & _OFFSET_MASK for entry in entries if entry & _OFFSET_MASK]
    if len(set(offsets)) != len(offsets):
        # How a few kilobytes claim to be terabytes of data.
        raise errors.image_corrupt("the same L2 table is used more than once")
    if any(offset % cluster_bytes for offset in offsets):
        raise errors.image_corrupt("an L2 table is not where a table can be")
    layout.require(max(offsets, default=0), cluster_bytes if offsets else 0, "an L2 table")


def require_data(layout: Layout, check: Callable[[], None]) -> None:
    """Raise `Failure` IMAGE_TRUNCATED unless the file holds every cluster that its tables name.

    For a file that `examine` let pass. qemu reads what lies beyond the end of a file as zeros, and
    of compressed data that makes other data without any error. `check` is called once a table.
    """
    header = layout.read(0, _HEADER.size, "its header")
    fields = _HEADER.unpack(header)
    cluster_bits, l1_entries, l1_offset = fields[4], fields[7], fields[8]
    address_bits = 62 - (cluster_bits - 8)
    address_mask, count_mask = (1 << address_bits) - 1, (1 << 62) - 1
    last_plain = 0
    last_sector, last_compressed = -1, 0
    for table in _l2_tables(layout, 1 << cluster_bits, l1_entries, l1_offset):
        check()
        for entry in filter(None, table):
            if entry & _COMPRESSED:
                address = entry & address_mask
                sector = (address >> _SECTOR_BITS) + ((entry & count_mask) >> address_bits)
                if (sector, address) > (last_sector, last_compressed):
                    last_sector, last_compressed = sector, address
            elif not entry & _READS_AS_ZEROS:
                last_plain = max(last_plain, entry & _OFFSET_MASK)
    if last_plain:
        layout.require(last_plain, 1 << cluster_bits, "its data")
    if last_sector >= 0:
        _require_compressed(layout, header, last_compressed, last_sector, 1 << cluster_bits)


def _l2_tables(
    layout: Layout, cluster_bytes: int, l1_entries: int, l1_offset: int
) -> Iterator["array[int]"]:
    directory = array("Q", layout.read(l1_offset, l1_entries * 8, "its L1 table"))
    directory.byteswap()
    unread_bytes = layout.size_bytes
    for entry in directory:
        if offset := entry & _OFFSET_MASK:
            unread_bytes -= cluster_bytes
            if unread_bytes < 0:
                raise errors.image_corrupt("the same L2 table is used more than once")
            table = array("Q", layout.read(offset, cluster_bytes, "an L2 table"))
            table.byteswap()
            yield table


def _require_compressed(
    layout: Layout, header: bytes, address: int, last_sector: int, cluster_bytes: int
) -> None:
    """The compressed cluster that ends last: its length is only known in whole sectors."""
    if layout.size_bytes >= (last_sector + 1) << _SECTOR_BITS:
        return
    version = struct.unpack_from(">I", header, 4)[0]
    features = struct.unpack(">Q", layout.read(72, 8, "its header"))[0] if version > 2 else 0
    complete = False
    # Who writes zstd fills the last sector. Deflate says where it ends.
    if not features & _COMPRESSION_TYPE and address < layout.size_bytes:
        stream = zlib.decompressobj(-12)
        try:
            data = stream.decompress(
                layout.read(address, layout.size_bytes - address, "its data"), cluster_bytes + 1
            )
            complete = stream.eof and len(data) == cluster_bytes
        except zlib.error:
            complete = False
    if not complete:
        raise errors.image_truncated("its last compressed cluster is not complete")
