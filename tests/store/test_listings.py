"""Filters, orders and pages, against a plain model of them in Python."""

import pytest

from darkroom.domain.access import AccessBinding
from darkroom.domain.disk import Disk
from darkroom.domain.image import Image
from darkroom.domain.query import OrderKey, Query, parse_filter, parse_order, values_of
from darkroom.domain.resource import PlacementPolicy, Status
from darkroom.domain.snapshot import Snapshot
from darkroom.storage.port import MetadataStore, Transaction
from store.rows import NOW_US, an_image, insert_image, insert_operation

DAY_US = 86_400_000_000
NOW_S = NOW_US // 1_000_000


def fill(store: MetadataStore) -> list[Image]:
    """Images whose names, families, labels, times and states repeat in different rhythms."""
    images = [
        an_image(
            id=f"fd8{number * 7919 % 100:03d}",
            name=f"n{number % 10}" if number % 10 else "",
            family=f"f{number % 3}",
            status=Status.ERROR if number >= 10 else Status.READY,
            labels={"env": f"e{number % 4}", 'odd"\\key': "x"} if number % 2 else {},
            created_at_us=NOW_US + number % 5 * DAY_US + number,
        )
        for number in range(30)
    ]

    def insert(tx: Transaction) -> None:
        for image in images:
            tx.insert_resource(image)

    store.write(insert)
    insert_image(store, folder_id="folder-b", name="n1")
    return images


def by(image: Image, order: tuple[OrderKey, ...]) -> tuple[object, ...]:
    """A sort key; texts descend by turning their code points around."""

    def turned(value: str | int, descending: bool) -> object:
        if not descending:
            return (value,)
        return -value if isinstance(value, int) else [-ord(letter) for letter in value] + [1]

    values = values_of(image, order)
    return tuple(turned(value, key.descending) for value, key in zip(values, order, strict=True))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('name = "n3"', lambda image: image.name == "n3"),
        ('name != "n3"', lambda image: image.name != "n3"),
        ('name IN ("n3", "n4", "x")', lambda image: image.name in ("n3", "n4")),
        ('name NOT IN ("n3", "")', lambda image: image.name not in ("n3", "")),
        ('name = "N3"', lambda image: False),
        ('status = "READY"', lambda image: image.status is Status.READY),
        ('family = "f1" AND status != "READY"', lambda i: i.family == "f1" and i.status == 3),
        ('labels.env = "e1"', lambda image: image.labels.get("env") == "e1"),
        ('labels.env != "e1"', lambda image: image.labels.get("env") != "e1"),
        ('labels.env NOT IN ("e1")', lambda image: image.labels.get("env") != "e1"),
        ('labels.none = ""', lambda image: False),
        ('id IN ("fd8000", "fd8019")', lambda image: image.id in ("fd8000", "fd8019")),
        (
            'created_at > "2026-09-22T00:00:00Z"',
            lambda image: image.created_at_us > 1_790_035_200_000_000,
        ),
        # Rows have microseconds, users see and name whole seconds.
        ('created_at = "2026-09-21T14:13:20Z"', lambda i: i.created_at_us // 10**6 == NOW_S),
        ('created_at != "2026-09-21T14:13:20Z"', lambda i: i.created_at_us // 10**6 != NOW_S),
        ('created_at <= "2026-09-21T14:13:20Z"', lambda i: i.created_at_us // 10**6 == NOW_S),
        ('created_at > "2026-09-21T14:13:20Z"', lambda i: i.created_at_us // 10**6 > NOW_S),
    ],
)
@pytest.mark.parametrize(
    "order", ["", "name desc", "createdAt", "created_at desc, name", "id desc"]
)
def test_filters_and_orders_find_what_the_model_finds(
    store: MetadataStore, text: str, holds: object, order: str
) -> None:
    assert callable(holds)
    images = fill(store)
    keys = parse_order(order)
    wanted = sorted((each for each in images if holds(each)), key=lambda each: by(each, keys))
    query = Query("folder-a", parse_filter(text), keys)
    assert store.find(Image, query, 1000) == wanted
    # And the same, seven at a time.
    seen: list[Image] = []
    while page := store.find(
        Image,
        Query("folder-a", query.conditions, keys, values_of(seen[-1], keys) if seen else ()),
        7,
    ):
        seen += page
    assert seen == wanted


def test_pages_stay_right_while_rows_come_and_go(store: MetadataStore) -> None:
    images = [insert_image(store, id=f"fd8{number:02d}", name=f"m{number}") for number in range(6)]
    order = parse_order("name")
    first = store.find(Image, Query("folder-a", order=order), 3)
    store.write(lambda tx: tx.delete_resource(images[2].id))  # the last row of the page itself
    store.write(lambda tx: tx.delete_resource(images[0].id))
    insert_image(store, id="fd8new", name="a-before-everything")
    rest = store.find(Image, Query("folder-a", order=order, after=values_of(first[-1], order)), 10)
    assert [image.name for image in first + rest] == [f"m{number}" for number in range(6)]


def test_kinds_do_not_meet(store: MetadataStore) -> None:
    image = insert_image(store, name="same")
    disk = Disk("fhm1", "folder-a", NOW_US, Status.READY, name="same", zone_id="z", size_bytes=5)
    snapshot = Snapshot(
        "fd8s", "folder-a", NOW_US, Status.READY, name="same", source_disk_id="fhm1"
    )
    policed = Disk(
        *("fhm2", "folder-a", NOW_US, Status.READY),
        placement_policy=PlacementPolicy("group", 3),
        instance_ids=("i1", "i2"),
        block_size_bytes=8192,
    )
    for resource in (disk, snapshot, policed):
        store.write(lambda tx, resource=resource: tx.insert_resource(resource))  # type: ignore[misc]
    assert store.get(Disk, disk.id) == disk
    assert store.get(Disk, policed.id) == policed
    assert store.get(Snapshot, snapshot.id) == snapshot
    assert store.get(Image, disk.id) is None and store.get(Disk, image.id) is None
    assert store.find(Disk, Query("folder-a"), 10) == [disk, policed]
    assert store.find(Image, Query("folder-a"), 10) == [image]
    assert Disk.from_record(policed.to_record()) == policed


def test_the_latest_of_a_family_is_the_newest_ready_one(store: MetadataStore) -> None:
    insert_image(store, family="f", created_at_us=NOW_US)
    newest = insert_image(store, family="f", created_at_us=NOW_US + 2)
    insert_image(store, family="f", created_at_us=NOW_US + 3, status=Status.ERROR)
    insert_image(store, family="f", created_at_us=NOW_US + 3, status=Status.CREATING)
    insert_image(store, family="F", created_at_us=NOW_US + 3)
    insert_image(store, family="f", created_at_us=NOW_US + 3, folder_id="folder-b")
    assert store.latest_by_family("folder-a", "f") == newest
    assert store.latest_by_family("folder-a", "g") is None


def test_bindings_are_a_set_listed_in_order_and_go_with_their_resource(
    store: MetadataStore,
) -> None:
    image = insert_image(store)
    bindings = sorted(
        AccessBinding(role, kind, f"s{number}")
        for role in ("viewer", "editor")
        for kind in ("userAccount", "serviceAccount")
        for number in range(3)
    )
    for binding in reversed(bindings):
        assert store.write(lambda tx, b=binding: tx.add_binding(image.id, b))  # type: ignore[misc]
    assert not store.write(lambda tx: tx.add_binding(image.id, bindings[0]))
    assert store.list_bindings(image.id, None, 100) == bindings
    assert store.list_bindings(image.id, bindings[4], 3) == bindings[5:8]
    assert store.write(lambda tx: tx.bindings(image.id)) == bindings
    assert store.write(lambda tx: tx.remove_binding(image.id, bindings[3]))
    assert not store.write(lambda tx: tx.remove_binding(image.id, bindings[3]))
    assert len(store.list_bindings(image.id, None, 100)) == len(bindings) - 1
    store.write(lambda tx: tx.delete_resource(image.id))
    assert store.list_bindings(image.id, None, 100) == []


def test_operations_of_a_resource_are_listed_oldest_first(store: MetadataStore) -> None:
    made = [
        insert_operation(store, resource_id="r", created_at_us=NOW_US + number // 2)
        for number in range(6)
    ]
    insert_operation(store, resource_id="other")
    ordered = sorted(made, key=lambda each: (each.created_at_us, each.id))
    assert store.list_operations("r", (0, ""), 10) == ordered
    position = (ordered[2].created_at_us, ordered[2].id)
    assert store.list_operations("r", position, 2) == ordered[3:5]
