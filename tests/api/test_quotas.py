"""How much may be under way in one folder."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from api.client import URI, refused
from api.cloud import Cloud, fresh_folder, in_process
from darkroom import wiring
from darkroom.config import Settings
from darkroom.operations import catalog
from darkroom.operations.catalog import CatalogEntry
from darkroom.operations.image_create import CreateImage, UriSource
from darkroom_pb.yandex.cloud.quota import quota_pb2

LIMIT = 3


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with in_process(tmp_path, max_active_operations_per_folder=LIMIT) as served:
        yield served


def begin(cloud: Cloud, folder: str, **fields: Any) -> Any:
    return cloud.kind("images").begin(folder, uri=URI, **fields)


def test_a_folder_has_a_bounded_number_of_active_operations(cloud: Cloud) -> None:
    folder = fresh_folder()
    key = {"metadata": (("idempotency-key", "the first"),)}
    first = begin(cloud, folder, **key)
    for _ in range(LIMIT - 1):
        begin(cloud, folder)
    failed = refused(lambda: begin(cloud, folder, name="n"))
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.message == "The limit on maximum number of active operations has exceeded."
    (violation,) = failed.detail(quota_pb2.QuotaFailure).violations
    assert (violation.metric.limit, violation.metric.usage, violation.required) == (3, 3, 4)
    assert failed.detail(error_details_pb2.RetryInfo).retry_delay.seconds > 0
    assert int(failed.trailers["grpc-retry-pushback-ms"]) > 0
    assert len(cloud.kind("images").listed(folder)) == LIMIT, "nothing is left of the refused one"
    # A repeat is no new operation, what is done at once is never active, and folders are apart.
    assert begin(cloud, folder, **key) == first
    assert cloud.kind("images").begin(folder).done
    assert not begin(cloud, fresh_folder()).done
    cloud.operations.Cancel(operation_id=first.id)
    begin(cloud, folder, name="n")


def test_concurrent_calls_do_not_go_over_the_limit(cloud: Cloud) -> None:
    folder, barrier = fresh_folder(), threading.Barrier(4 * LIMIT)
    begun: list[Any] = []
    codes: list[grpc.StatusCode] = []

    def attempt() -> None:
        barrier.wait()
        try:
            begun.append(begin(cloud, folder))
        except grpc.RpcError as error:
            codes.append(error.code())

    threads = [threading.Thread(target=attempt) for _ in range(4 * LIMIT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == LIMIT
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3 * LIMIT


def test_the_operators_catalogue_is_not_limited(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, max_active_operations_per_folder=1)
    deployment = wiring.open_deployment(settings)
    deployment.store.migrate()
    entries = [
        CatalogEntry(
            name,
            CreateImage(
                "standard-images", UriSource(URI), name=name, image_id=catalog.catalog_id("f", name)
            ),
        )
        for name in ("one", "two", "three")
    ]
    catalog.stock(deployment.store, wiring.operations(deployment), entries)
    count = deployment.store.write(lambda tx: tx.count_unfinished("standard-images", 10))
    assert count == len(entries)
    deployment.close()
