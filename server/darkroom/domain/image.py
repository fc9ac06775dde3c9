"""The image resource and the rules that hold for it wherever it came from."""

from dataclasses import dataclass
from typing import ClassVar

from darkroom.domain.resource import (
    SIZE_STEP_BYTES,
    HardwareGeneration,
    KmsKey,
    Os,
    OsType,
    Resource,
    Status,
)

__all__ = [
    "HardwareGeneration",
    "Image",
    "KmsKey",
    "Os",
    "OsType",
    "Status",
    "default_min_disk_size_bytes",
]


@dataclass(frozen=True)
class Image(Resource):
    """Something to make disks from."""

    NOUN: ClassVar[str] = "Image"

    family: str = ""
    min_disk_size_bytes: int = 0
    pooled: bool = False


def default_min_disk_size_bytes(virtual_size_bytes: int) -> int:
    """The virtual size rounded up to whole disk steps: what min_disk_size is when unset."""
    steps = -(-virtual_size_bytes // SIZE_STEP_BYTES)
    return max(1, steps) * SIZE_STEP_BYTES
