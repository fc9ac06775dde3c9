"""yandex.cloud.compute.v1.ZoneService and DiskTypeService: what is configured, by id."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from darkroom.api.calls import Call
from darkroom.domain import errors, listing
from darkroom.domain.places import DISK_TYPE_DESCRIPTIONS, Places, region_of
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_type_pb2,
    disk_type_service_pb2,
    zone_pb2,
    zone_service_pb2,
)


def _page(
    call: Call, what: str, ids: tuple[str, ...], to_message: Callable[[str], Any]
) -> tuple[list[Any], str]:
    size = listing.page_size(call.request.page_size)
    position = listing.decode_page_token((what,), call.request.page_token, (str,))
    rest = [each for each in sorted(ids) if not position or each > str(position[0])]
    shown, token = listing.page((what,), rest, size, lambda each: (each,))
    return [to_message(each) for each in shown], token


class ZoneServicer:
    """Zones, all of them up."""

    SERVICE = zone_service_pb2.DESCRIPTOR.services_by_name["ZoneService"]

    def __init__(self, places: Places) -> None:
        self._ids = places.zone_ids

    def Get(self, call: Call) -> Message:
        zone_id = call.resource_id = call.request.zone_id
        if zone_id not in self._ids:
            raise errors.resource_not_found("Zone", zone_id)
        return _zone(zone_id)

    def List(self, call: Call) -> Message:
        zones, token = _page(call, "zones", self._ids, _zone)
        return zone_service_pb2.ListZonesResponse(zones=zones, next_page_token=token)


def _zone(zone_id: str) -> zone_pb2.Zone:
    return zone_pb2.Zone(id=zone_id, region_id=region_of(zone_id), status=zone_pb2.Zone.UP)


class DiskTypeServicer:
    """Disk types; every one is to be had in every zone."""

    SERVICE = disk_type_service_pb2.DESCRIPTOR.services_by_name["DiskTypeService"]

    def __init__(self, places: Places) -> None:
        self._places = places

    def Get(self, call: Call) -> Message:
        type_id = call.resource_id = call.request.disk_type_id
        if type_id not in self._places.disk_type_ids:
            raise errors.resource_not_found("Disk type", type_id)
        return self._type(type_id)

    def List(self, call: Call) -> Message:
        types, token = _page(call, "disk types", self._places.disk_type_ids, self._type)
        return disk_type_service_pb2.ListDiskTypesResponse(disk_types=types, next_page_token=token)

    def _type(self, type_id: str) -> disk_type_pb2.DiskType:
        return disk_type_pb2.DiskType(
            id=type_id,
            description=DISK_TYPE_DESCRIPTIONS.get(type_id, ""),
            zone_ids=sorted(self._places.zone_ids),
        )
