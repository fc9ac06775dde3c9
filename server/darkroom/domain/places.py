"""Zones and disk types: what a disk can be in and of. They are configured, not made."""

from dataclasses import dataclass

DEFAULT_ZONES = ("ru-central1-a", "ru-central1-b", "ru-central1-d")
DISK_TYPE_DESCRIPTIONS = {
    "network-hdd": "Network storage with HDD backend",
    "network-ssd": "Network storage with SSD backend",
    "network-ssd-nonreplicated": "Non-replicated network storage with SSD backend",
    "network-ssd-io-m3": "Fast network storage with three replicas",
}
"""The cloud's types and how it describes them (cloud docs)."""

_DISK_ID_PREFIXES = {
    "ru-central1-a": "fhm",
    "ru-central1-b": "epd",
    "ru-central1-c": "ef3",
    "ru-central1-d": "fv4",
}


@dataclass(frozen=True)
class Places:
    """The configured zones and disk types, each in the order of listings."""

    zone_ids: tuple[str, ...] = DEFAULT_ZONES
    disk_type_ids: tuple[str, ...] = tuple(DISK_TYPE_DESCRIPTIONS)


def region_of(zone_id: str) -> str:
    """A zone is named after its region: ru-central1-a is in ru-central1."""
    return zone_id.rpartition("-")[0] or zone_id


def disk_id_prefix(zone_id: str) -> str:
    """What ids of disks in the zone begin with (cloud docs)."""
    return _DISK_ID_PREFIXES.get(zone_id, "fhm")


@dataclass(frozen=True)
class Folders:
    """The one cloud of an installation and the names of its folders, by id."""

    cloud_id: str
    names: dict[str, str]
