"""Real disk images of every accepted kind, made by qemu-img, and a hybrid ISO made by hand."""

import os
import struct
import subprocess
from pathlib import Path

MIB = 1024**2


def qemu_img(*arguments: str | Path) -> str:
    return subprocess.run(
        ["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def disk(path: Path, size: int = 6 * MIB) -> Path:
    """A raw disk: data, a hole, data again, and its last sector in use."""
    with path.open("wb") as file:
        file.write(os.urandom(2 * MIB))
        file.seek(4 * MIB + 512)
        file.write(os.urandom(300_000))
        file.seek(size - 512)
        file.write(os.urandom(512))
    return path


def converted(raw: Path, path: Path, image_format: str, options: str = "", *flags: str) -> Path:
    extra = ["-o", options] if options else []
    qemu_img("convert", "-f", "raw", "-O", image_format, *extra, *flags, raw, path)
    return path


def footed(raw: Path, path: Path) -> Path:
    """A streamOptimized VMDK as VMware writes it: only its footer knows where the tables are."""
    converted(raw, path, "vmdk", "subformat=streamOptimized")
    header = path.read_bytes()[:512]
    with path.open("r+b") as file:
        file.seek(56)
        file.write(b"\xff" * 8)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<QII", 1, 0, 3) + bytes(496) + header + bytes(512))
    return path


def partitioned(path: Path) -> Path:
    """An MBR disk with one bootable Linux partition."""
    disk(path)
    with path.open("r+b") as file:
        file.write(b"\xfa\xeb\x1e" + bytes(443))
        file.write(struct.pack("<B3sB3sII", 0x80, b"\x20\x21\0", 0x83, b"\xff\xff\xff", 2048, 8192))
        file.write(bytes(48) + b"\x55\xaa")
    return path


def gpt(path: Path) -> Path:
    """A disk with a protective MBR and a GPT header."""
    disk(path)
    with path.open("r+b") as file:
        file.write(bytes(446))
        file.write(struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, 12287))
        file.write(bytes(48) + b"\x55\xaa" + b"EFI PART\0\0\1\0\x5c\0\0\0" + bytes(496))
    return path


def hybrid_iso(path: Path) -> Path:
    """An ISO 9660 image that also carries an MBR, as distributions ship them."""
    partitioned(path)
    with path.open("r+b") as file:
        file.seek(0x8000)
        file.write(b"\1CD001\1\0" + b"LINUX".ljust(32) + b"DEBIAN".ljust(32) + bytes(8))
        file.write(struct.pack("<I", 3072) + struct.pack(">I", 3072))
        file.seek(0x8000 + 128)
        file.write(struct.pack("<H", 2048) + struct.pack(">H", 2048))
        file.seek(0x8800)
        file.write(b"\xffCD001\1")
    return path


def same(first: Path, first_format: str, second: Path) -> bool:
    """Whether a qcow2 holds the same disk as another image."""
    ended = subprocess.run(
        ["qemu-img", "compare", "-f", first_format, "-F", "qcow2", first, second],
        capture_output=True,
    )
    return ended.returncode == 0
