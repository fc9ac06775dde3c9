"""Whether a stored content is what it was when it was stored."""

import contextlib
import hashlib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PIECE_BYTES = 1 << 20

_QEMU_IMG_SECONDS = 3600.0
"""A check follows the tables of a file; it reads no data."""

_LEAKED_CLUSTERS = 3
"""Exit status of `qemu-img check` for space that is wasted and nothing worse (its manual)."""


def sha256_of(content: BinaryIO) -> str:
    """Hex digest of everything from where it stands to its end."""
    digest = hashlib.sha256()
    while piece := content.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def tables_are_sound(content: BinaryIO, scratch: Path) -> bool:
    """Whether `qemu-img check` finds no contradiction in the tables of a qcow2 of our own making.

    A content without a local file is written to one in `scratch` first. Raises `OSError`.
    """
    if shutil.which("qemu-img") is None:
        raise OSError("qemu-img is not installed")
    with _local(content, scratch) as descriptor:
        try:
            result = subprocess.run(
                ["qemu-img", "check", "-q", "-f", "qcow2", f"/dev/fd/{descriptor}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(descriptor,),
                timeout=_QEMU_IMG_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OSError("qemu-img check takes too long") from None
    return result.returncode in (0, _LEAKED_CLUSTERS)


@contextlib.contextmanager
def _local(content: BinaryIO, scratch: Path) -> Iterator[int]:
    """The descriptor of a file with the content."""
    content.seek(0)
    try:
        yield content.fileno()
    except (AttributeError, io.UnsupportedOperation):
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch) as file:
            while piece := content.read(_PIECE_BYTES):
                file.write(piece)
            file.flush()
            yield file.fileno()
