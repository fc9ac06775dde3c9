"""Write a content to a file of the operator's, as large as the resource that has it."""

import contextlib
import hashlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from darkroom.domain import errors
from darkroom.imaging.room import sync

_SIZE_OFFSET = 24
"""Where a qcow2 header keeps the virtual size: 8 bytes, big-endian (docs/interop/qcow2.txt)."""

_QEMU_IMG_SECONDS = 60.0
"""It writes a header and a table, never data."""

_PIECE_BYTES = 1 << 20


def export(content: BinaryIO | None, sha256: str, size_bytes: int, target: Path) -> None:
    """Make `target` a qcow2 of that virtual size: the content, then zeros; None for zeros only.

    `sha256` is the hex digest that the content must have. `target` appears whole and on disk, or
    not at all, and nothing is overwritten. Raises `FileExistsError`, `Failure` CONTENT_DAMAGED
    and whatever reading the content raises, and `OSError` for everything else that goes wrong,
    a full disk included.
    """
    if os.path.lexists(target):
        raise FileExistsError(target)
    with _unnamed(target) as part:
        if content is None:
            _qemu_img("create", "-q", "-f", "qcow2", str(part), str(size_bytes))
        else:
            _copy(content, sha256, part)
            if _virtual_size_bytes(part) != size_bytes:
                # Only what this program made itself comes here, so it runs unconfined.
                _qemu_img("resize", "-q", "-f", "qcow2", str(part), str(size_bytes))
        sync(part)
        # A link, not a rename: it fails where the name is taken, in one step.
        os.link(part, target)
    sync(target.parent)


def _copy(content: BinaryIO, sha256: str, part: Path) -> None:
    digest = hashlib.sha256()
    with part.open("wb") as file:
        while piece := content.read(_PIECE_BYTES):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != sha256:
        raise errors.content_damaged()


@contextlib.contextmanager
def _unnamed(target: Path) -> Iterator[Path]:
    """A new file beside the target, gone at the end of the block."""
    part = target.with_name(f".darkroom-{secrets.token_hex(8)}.part")
    part.touch(exist_ok=False)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _virtual_size_bytes(qcow2: Path) -> int:
    with qcow2.open("rb") as file:
        file.seek(_SIZE_OFFSET)
        return int.from_bytes(file.read(8), "big")


def _qemu_img(*arguments: str) -> None:
    try:
        result = subprocess.run(
            ["qemu-img", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_QEMU_IMG_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"qemu-img {arguments[0]} takes too long") from None
    if result.returncode:
        said = result.stderr.strip().rpartition("\n")[2]
        raise OSError(f"qemu-img {arguments[0]} failed: {said or result.returncode}")
