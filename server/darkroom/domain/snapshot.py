"""The snapshot resource."""

from dataclasses import dataclass
from typing import ClassVar

from darkroom.domain.resource import Resource


@dataclass(frozen=True)
class Snapshot(Resource):
    """What a disk held at one moment. `size_bytes` is the disk's size then."""

    NOUN: ClassVar[str] = "Snapshot"

    source_disk_id: str = ""
