"""ZoneService and DiskTypeService: what is configured, by default what the cloud has."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from api.client import refused
from api.cloud import Cloud, in_process
from darkroom_pb.yandex.cloud.compute.v1 import zone_pb2

ZONES = ["ru-central1-a", "ru-central1-b", "ru-central1-d"]
DISK_TYPES = {
    "network-hdd": "Network storage with HDD backend",
    "network-ssd": "Network storage with SSD backend",
    "network-ssd-io-m3": "Fast network storage with three replicas",
    "network-ssd-nonreplicated": "Non-replicated network storage with SSD backend",
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with in_process(tmp_path_factory.mktemp("cloud")) as served:
        yield served


def test_zones_are_those_of_the_cloud(cloud: Cloud) -> None:
    reply = cloud.zones.List()
    assert [zone.id for zone in reply.zones] == ZONES and not reply.next_page_token
    for zone in reply.zones:
        assert (zone.region_id, zone.status) == ("ru-central1", zone_pb2.Zone.UP)
        assert cloud.zones.Get(zone_id=zone.id) == zone


def test_disk_types_are_those_of_the_cloud_in_every_zone(cloud: Cloud) -> None:
    reply = cloud.disk_types.List()
    assert {each.id: each.description for each in reply.disk_types} == DISK_TYPES
    assert [each.id for each in reply.disk_types] == sorted(DISK_TYPES)
    for each in reply.disk_types:
        assert list(each.zone_ids) == ZONES
        assert cloud.disk_types.Get(disk_type_id=each.id) == each


def test_what_is_not_configured_is_not_found(cloud: Cloud) -> None:
    for attempt, message in (
        (lambda: cloud.zones.Get(zone_id="mars"), 'Zone "mars" not found'),
        (lambda: cloud.disk_types.Get(disk_type_id="floppy"), 'Disk type "floppy" not found'),
    ):
        failed = refused(attempt)
        assert (failed.code, failed.message) == (grpc.StatusCode.NOT_FOUND, message)


def test_places_come_in_pages(cloud: Cloud) -> None:
    first = cloud.zones.List(page_size=2)
    assert len(first.next_page_token) <= 100
    rest = cloud.zones.List(page_size=2, page_token=first.next_page_token)
    assert [zone.id for zone in [*first.zones, *rest.zones]] == ZONES
    assert not rest.next_page_token
    types = cloud.disk_types.List(page_size=3)
    more = cloud.disk_types.List(page_size=3, page_token=types.next_page_token)
    assert [each.id for each in [*types.disk_types, *more.disk_types]] == sorted(DISK_TYPES)
    for token in (types.next_page_token, "nonsense", first.next_page_token[:-2]):
        failed = refused(lambda t=token: cloud.zones.List(page_token=t))  # type: ignore[misc]
        assert failed.reason == "PAGE_TOKEN_INVALID"
    for size in (-1, 1001):
        for stub in (cloud.zones, cloud.disk_types):
            failed = refused(lambda s=stub, n=size: s.List(page_size=n))  # type: ignore[misc]
            assert [*failed.fields] == ["page_size"]


def test_places_are_what_the_operator_configures(tmp_path: Path) -> None:
    settings = {"zone": ("moon-1-a", "solitary"), "disk_type": ("tape", "network-ssd")}
    with in_process(tmp_path, **settings) as cloud:
        zones = {zone.id: zone.region_id for zone in cloud.zones.List().zones}
        assert zones == {"moon-1-a": "moon-1", "solitary": "solitary"}
        types = {each.id: each.description for each in cloud.disk_types.List().disk_types}
        assert types == {"tape": "", "network-ssd": DISK_TYPES["network-ssd"]}
        disks = cloud.kind("disks")
        made = disks.get(disks.create("folder", zone_id="solitary", type_id="tape"))
        assert (made.zone_id, made.type_id) == ("solitary", "tape")
        failed = refused(lambda: disks.begin("folder", zone_id=ZONES[0], type_id="tape"))
        assert failed.message == f'Zone "{ZONES[0]}" not found'
        failed = refused(lambda: disks.begin("folder", zone_id="solitary"))
        assert failed.message == 'Disk type "network-hdd" not found'
