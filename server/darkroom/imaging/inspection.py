"""Our own look at a file before qemu sees it: what is it, and is it fit to be converted?"""

import io
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oslo_utils.imageutils import format_inspector

from darkroom.domain import errors
from darkroom.imaging import qcow2, vmdk
from darkroom.imaging.layout import Layout

log = logging.getLogger(__name__)

Format = Literal["qcow2", "vmdk", "raw"]

SECTOR_BYTES = 512
_HEAD_BYTES = 68 * 1024
"""Enough for every signature: the farthest is that of ISO 9660, at 32 KiB."""
_TAIL_BYTES = 4096
_CHUNK_BYTES = 4096


@dataclass(frozen=True)
class InspectionLimits:
    """Bounds of what may be converted."""

    max_virtual_size_bytes: int = 4 * 1024**4


@dataclass(frozen=True)
class Inspection:
    """What a file is. Raw stands for everything without a format of its own."""

    format: Format
    virtual_size_bytes: int
    """Size of the disk inside; of raw, the file's, rounded up to 512 bytes as qemu does."""
    dirty: bool = False
    """A qcow2 that was not closed cleanly: its reference counts may be out of date."""
    cluster_bytes: int = 0
    open_end_bytes: int = 0
    """A qcow2 may end here, in the middle of a cluster, without being cut off."""


def _at(offset: int, *signatures: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, tail: any(
        head[offset : offset + len(signature)] == signature for signature in signatures
    )


def _at_end(offset: int, signature: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, tail: tail[-offset:].startswith(signature)


_ARCHIVES = {
    "a gzip archive": _at(0, b"\x1f\x8b"),
    "an xz archive": _at(0, b"\xfd7zXZ\0"),
    "an lzma archive": _at(0, b"\x5d\0\0"),
    "a bzip2 archive": lambda head, tail: (
        re.match(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", head) is not None
    ),
    "a zstd archive": _at(0, b"\x28\xb5\x2f\xfd"),
    "an lz4 archive": _at(0, b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"),
    "an lzip archive": _at(0, b"LZIP"),
    "an lzop archive": _at(0, b"\x89LZO\0\r\n\x1a\n"),
    "a compress (.Z) archive": _at(0, b"\x1f\x9d", b"\x1f\xa0"),
    "a zip archive": _at(0, b"PK\3\4", b"PK\5\6", b"PK\7\x08"),
    "a 7z archive": _at(0, b"7z\xbc\xaf\x27\x1c"),
    "a rar archive": _at(0, b"Rar!\x1a\x07"),
    "a cabinet archive": _at(0, b"MSCF\0\0\0\0"),
    "a cpio archive": _at(0, b"070701", b"070702", b"070707"),
    "an ar archive": _at(0, b"!<arch>\n"),
    "a tar archive (an .ova is one, too)": _at(257, b"ustar"),
}
_OTHER_FORMATS = {
    "a VHD image": lambda head, tail: (
        head.startswith((b"conectix", b"cxsparse")) or tail[-512:].startswith(b"conectix")
    ),
    "a VHDX image": _at(0, b"vhdxfile"),
    "a VDI image": _at(0x40, b"\x7f\x10\xda\xbe"),
    "a QED image": _at(0, b"QED\0"),
    "a Parallels image": _at(0, b"WithoutFreeSpace", b"WithouFreSpacExt"),
    "a Bochs image": _at(0, b"Bochs Virtual HD Image"),
    "a cloop image": _at(0, b"#!/bin/sh\n#V2.0 Format"),
    "a DMG image": _at_end(512, b"koly"),
    "an ESX sparse (COWD) VMDK": _at(0, b"COWD"),
    "an EWF (E01) image": _at(0, b"EVF\x09\x0d\x0a\xff\0"),
}
_LUKS = _at(0, b"LUKS\xba\xbe", b"SKUL\xba\xbe")
_QCOW = _at(0, b"QFI\xfb")
_VMDK = _at(0, b"KDMV")
_MARKUP = re.compile(
    rb"(?:<!--.*?-->\s*)*<(?:!doctype|html|head|body|\?xml|error|listbucket|[a-z]+[\s/>])",
    re.IGNORECASE | re.DOTALL,
)
_RAW_KINDS = frozenset({"raw", "gpt", "iso"})
"""What oslo.utils tells apart and qemu reads alike: a disk without a format around it."""


def inspect(path: Path, limits: InspectionLimits | None = None) -> Inspection:
    """Judge a file by its head and tail, in a few milliseconds and megabytes, whatever its size.

    Accepts qcow2 versions 2 and 3, VMDK monolithicSparse and streamOptimized, and raw, which
    partitioned disks, plain file systems and ISO images (hybrid or not) are, too. A raw file
    whose length is not a multiple of 512 bytes counts as padded with zeros.

    Raises `Failure` IMAGE_* for everything else, and for each way an accepted format can refer to
    other files, be damaged or claim too much.
    """
    limits = limits or InspectionLimits()
    with path.open("rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD_BYTES) or b""
        tail = os.pread(file.fileno(), _TAIL_BYTES, max(0, size_bytes - _TAIL_BYTES))
        if not size_bytes:
            raise errors.image_corrupt("it is empty")
        is_qcow, is_vmdk = _QCOW(head, tail), _VMDK(head, tail)
        if not (is_qcow or is_vmdk):
            _refuse_others(head, tail)
        _refuse_polyglots(head, tail, is_qcow, is_vmdk)
        layout = Layout(file.fileno(), size_bytes)
        if is_qcow:
            found = qcow2.examine(layout)
            inspection = Inspection(
                "qcow2",
                found.virtual_size_bytes,
                found.dirty,
                found.cluster_bytes,
                found.open_end_bytes,
            )
        elif is_vmdk:
            inspection = Inspection("vmdk", vmdk.examine(layout))
        else:
            inspection = Inspection("raw", -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES)
        _second_opinion(head, tail, size_bytes, inspection)
    if inspection.virtual_size_bytes > limits.max_virtual_size_bytes:
        raise errors.image_too_large(inspection.virtual_size_bytes, limits.max_virtual_size_bytes)
    return inspection


def _refuse_others(head: bytes, tail: bytes) -> None:
    """Things that are no disk image, or one we do not take."""
    for what, matches in _ARCHIVES.items():
        if matches(head, tail):
            raise errors.image_is_an_archive(what)
    if _LUKS(head, tail):
        raise errors.image_encrypted()
    for what, matches in _OTHER_FORMATS.items():
        if matches(head, tail):
            raise errors.image_format_unsupported(what)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"#\s*disk\s*descriptor\s*file", start, re.IGNORECASE) or (
        b"createtype=" in head[:4096].lower() and _is_text(head[:SECTOR_BYTES])
    ):
        raise errors.image_extents_elsewhere("a descriptor without data")
    if _MARKUP.match(start[:2048]):
        is_xml = start[:5].lower() == b"<?xml" or start[:6].lower() == b"<error"
        raise errors.image_is_a_page("an XML document" if is_xml else "an HTML page")
    if _is_text(head[:SECTOR_BYTES]):
        raise errors.image_is_a_page("a text")


def _is_text(data: bytes) -> bool:
    return all(byte >= 0x20 or byte in b"\t\n\f\r" for byte in data) and _is_utf8(data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(data) - 3  # a character cut in two at the end
    return True


def _refuse_polyglots(head: bytes, tail: bytes, is_qcow: bool, is_vmdk: bool) -> None:
    """A file that two programs would read as two things is read as neither."""
    formats = [name for name, found in (("qcow2", is_qcow), ("VMDK", is_vmdk)) if found]
    if not formats:
        return
    others = {**_ARCHIVES, **_OTHER_FORMATS}
    formats += [what for what, matches in others.items() if matches(head, tail)]
    if head[0x8001:0x8006] in (b"CD001", b"NSR02", b"NSR03"):
        formats.append("an ISO image")
    if head[510:512] == b"\x55\xaa":
        formats.append("a partitioned disk")
    if len(formats) > 1:
        raise errors.image_ambiguous(formats)


def _second_opinion(head: bytes, tail: bytes, size_bytes: int, inspection: Inspection) -> None:
    """What oslo.utils thinks. It reads streams, so it gets the head and, as their end, the tail.

    It only may add a refusal: our own checks have already named every reason we know of.
    """
    unseen = min(size_bytes - len(head), len(tail))
    stream = io.BytesIO(head + tail[len(tail) - unseen :])
    wrapper = format_inspector.InspectWrapper(stream)
    try:
        while wrapper.read(_CHUNK_BYTES):
            pass
        wrapper.close()
        found = wrapper.formats or []
    except Exception as error:  # it stumbles over what it did not expect, a VMDK-like text for one
        log.info("a second opinion failed", extra={"fields": {"error": type(error).__name__}})
        raise errors.image_corrupt("it looks like two formats at once") from None
    names = {str(inspector) for inspector in found}
    if inspection.format == "raw":
        if not names <= _RAW_KINDS:
            raise errors.image_ambiguous(sorted(names))
        return
    if names != {inspection.format}:
        raise errors.image_ambiguous(sorted(names | {inspection.format}))
    try:
        found[0].safety_check()
    except (format_inspector.SafetyCheckFailed, format_inspector.ImageFormatError):
        raise errors.image_corrupt("its header does not pass the safety check") from None
