"""The disk resource."""

from dataclasses import dataclass, field
from typing import ClassVar

from darkroom.domain.resource import PlacementPolicy, Resource

DEFAULT_TYPE_ID = "network-hdd"
DEFAULT_BLOCK_SIZE_BYTES = 4096
MIN_BLOCK_SIZE_BYTES = 4 * 1024
MAX_BLOCK_SIZE_BYTES = 128 * 1024
MAX_BLOCKS = 8 * 1024**4 // MIN_BLOCK_SIZE_BYTES
"""A disk has at most this many blocks: 8 TiB of 4 KiB, 256 TiB of 128 KiB (cloud docs)."""


@dataclass(frozen=True)
class Disk(Resource):
    """A disk: a content, or nothing yet, and a size of its own that only grows."""

    NOUN: ClassVar[str] = "Disk"

    type_id: str = DEFAULT_TYPE_ID
    zone_id: str = ""
    block_size_bytes: int = DEFAULT_BLOCK_SIZE_BYTES
    source_image_id: str = ""
    source_snapshot_id: str = ""
    instance_ids: tuple[str, ...] = ()
    placement_policy: PlacementPolicy = field(default_factory=PlacementPolicy)
