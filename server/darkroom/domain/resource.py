"""What images, disks and snapshots have in common."""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

SIZE_STEP_BYTES = 4 * 1024 * 1024
"""Disks come in multiples of 4 MiB (cloud docs)."""


class Status(enum.IntEnum):
    """The status of a resource; the three messages of the API use the same numbers."""

    CREATING = 1
    READY = 2
    ERROR = 3
    DELETING = 4


@dataclass(frozen=True)
class HardwareGeneration:
    """Either legacy features (a PCI topology: 1 or 2) or generation 2 features."""

    pci_topology: int = 1
    generation2: bool = False
    secure_boot_template_id: str = ""
    vtpm_enabled: bool = False


@dataclass(frozen=True)
class PlacementPolicy:
    """Where in a placement group a disk stands; kept and shown, nothing is placed."""

    placement_group_id: str = ""
    placement_group_partition: int = 0


@dataclass(frozen=True)
class KmsKey:
    key_id: str
    version_id: str


class OsType(enum.IntEnum):
    """yandex.cloud.compute.v1.Os.Type, same numbers."""

    UNSPECIFIED = 0
    LINUX = 1
    WINDOWS = 2


@dataclass(frozen=True)
class Os:
    """Operating system inside; `nvidia_driver` is empty when none was named."""

    type: OsType = OsType.LINUX
    nvidia_driver: str = ""


@dataclass(frozen=True)
class Resource:
    """A row of any kind. Sizes in bytes, `created_at_us` in microseconds since the epoch, UTC."""

    NOUN: ClassVar[str] = ""
    """How users read the kind in messages: Image, Disk, Snapshot. The store's name for it too."""

    id: str
    folder_id: str
    created_at_us: int
    status: Status
    name: str = ""
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    """Virtual size: it belongs to the row, the content below may be smaller."""
    storage_size_bytes: int = 0
    product_ids: tuple[str, ...] = ()
    hardware_generation: HardwareGeneration = field(default_factory=HardwareGeneration)
    os: Os = field(default_factory=Os)
    """Only images show it; disks and snapshots hand it on to the images made of them."""
    kms_key: KmsKey | None = None
    content_id: str | None = None
    """None while there is no content: still creating, failed, or an empty disk."""

    def to_record(self) -> dict[str, Any]:
        """JSON-able form: what an operation keeps as its response."""
        return {name: encoded(value) for name, value in self.__dict__.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Inverse of `to_record`."""
        return cls(**{name: decoded(name, value) for name, value in record.items()})


def encoded(value: Any) -> Any:
    """A field's value in types that JSON has."""
    if dataclasses.is_dataclass(value):
        return dict(value.__dict__)
    return list(value) if isinstance(value, tuple) else value


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "status": Status,
    "product_ids": tuple,
    "hardware_generation": lambda value: HardwareGeneration(**value),
    "os": lambda value: Os(OsType(value["type"]), value["nvidia_driver"]),
    "placement_policy": lambda value: PlacementPolicy(**value),
    "instance_ids": tuple,
    "kms_key": lambda value: None if value is None else KmsKey(**value),
}


def decoded(name: str, value: Any) -> Any:
    """Inverse of `encoded` for the field `name`."""
    decoder = _DECODERS.get(name)
    return value if decoder is None else decoder(value)
