"""The image resource and the rules that hold for it wherever it came from."""

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any

MIN_DISK_SIZE_STEP_BYTES = 4 * 1024 * 1024
"""Disks come in multiples of 4 MiB (FACTS 5)."""


class Status(enum.IntEnum):
    """yandex.cloud.compute.v1.Image.Status, same numbers."""

    CREATING = 1
    READY = 2
    ERROR = 3
    DELETING = 4


class OsType(enum.IntEnum):
    """yandex.cloud.compute.v1.Os.Type, same numbers."""

    UNSPECIFIED = 0
    LINUX = 1
    WINDOWS = 2


@dataclass(frozen=True)
class Os:
    """Operating system inside the image; `nvidia_driver` is empty when none was named."""

    type: OsType = OsType.LINUX
    nvidia_driver: str = ""


@dataclass(frozen=True)
class HardwareGeneration:
    """Either legacy features (a PCI topology: 1 or 2) or generation 2 features."""

    pci_topology: int = 1
    generation2: bool = False
    secure_boot_template_id: str = ""
    vtpm_enabled: bool = False


@dataclass(frozen=True)
class KmsKey:
    key_id: str
    version_id: str


@dataclass(frozen=True)
class Image:
    """An image row. Sizes in bytes, `created_at_us` in microseconds since the epoch, UTC."""

    id: str
    folder_id: str
    created_at_us: int
    status: Status
    name: str = ""
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    family: str = ""
    size_bytes: int = 0
    storage_size_bytes: int = 0
    min_disk_size_bytes: int = 0
    product_ids: tuple[str, ...] = ()
    os: Os = field(default_factory=Os)
    pooled: bool = False
    hardware_generation: HardwareGeneration = field(default_factory=HardwareGeneration)
    kms_key: KmsKey | None = None
    content_id: str | None = None

    def to_record(self) -> dict[str, Any]:
        """JSON-able form: what an operation keeps as its response."""
        record = dataclasses.asdict(self)
        record["product_ids"] = list(self.product_ids)
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Image":
        """Inverse of `to_record`."""
        values = dict(record)
        values["status"] = Status(values["status"])
        values["product_ids"] = tuple(values["product_ids"])
        values["os"] = Os(OsType(values["os"]["type"]), values["os"]["nvidia_driver"])
        values["hardware_generation"] = HardwareGeneration(**values["hardware_generation"])
        if values["kms_key"] is not None:
            values["kms_key"] = KmsKey(**values["kms_key"])
        return cls(**values)


def default_min_disk_size_bytes(virtual_size_bytes: int) -> int:
    """The virtual size rounded up to whole disk steps: what min_disk_size is when unset."""
    steps = -(-virtual_size_bytes // MIN_DISK_SIZE_STEP_BYTES)
    return max(1, steps) * MIN_DISK_SIZE_STEP_BYTES
