"""What Prometheus reads from a running installation, and that nobody else pays for it."""

import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from darkroom.storage.figures import StoreFigures
from darkroom.telemetry.exposition import Exposition, told
from darkroom.telemetry.metrics import Metrics
from house import House
from installation import Installation, until

SERVICE = "yandex.cloud.compute.v1.ImageService"
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(address: str) -> Figures:
    """Every sample by its name and labels; a sample that comes twice fails."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def of(figures: Figures, name: str, **labels: str) -> float:
    """The sum of all samples of a name that have these labels."""
    wanted = set(labels.items())
    return sum(value for key, value in figures.items() if key[0] == name and wanted <= key[1])


def settled(house: Installation) -> Figures:
    """The figures once both workers have told theirs."""

    def ended() -> Figures | None:
        figures = scraped(house.metrics_address)
        return figures if of(figures, "darkroom_attempts_total") >= 2 else None

    found: Figures = until(ended, "the workers to tell their figures")
    return found


def test_calls_are_counted_under_the_names_of_go_grpc_prometheus(house: Installation) -> None:
    before = scraped(house.metrics_address)
    with pytest.raises(grpc.RpcError):
        house.image("no-such-image")
    house.listed()
    house.listed()
    after = scraped(house.metrics_address)

    def more(name: str, **labels: str) -> float:
        labels = {"grpc_service": SERVICE, "grpc_type": "unary", **labels}
        return of(after, name, **labels) - of(before, name, **labels)

    assert more("grpc_server_started_total", grpc_method="List") == 2
    assert more("grpc_server_handled_total", grpc_method="List", grpc_code="OK") == 2
    assert more("grpc_server_handled_total", grpc_method="Get", grpc_code="NOT_FOUND") == 1
    assert more("grpc_server_handling_seconds_count", grpc_method="Get") == 1
    assert more("grpc_server_handling_seconds_bucket", grpc_method="List", le="+Inf") == 2


def test_methods_that_do_not_exist_share_one_series(house: Installation) -> None:
    assert house.channel is not None
    for name in ("One", "Two"):
        call: Any = house.channel.unary_unary(f"/no.such.Service/{name}")
        with pytest.raises(grpc.RpcError):
            call(b"")
    figures = scraped(house.metrics_address)
    assert of(figures, "grpc_server_handled_total", grpc_service="unknown") >= 2
    assert not [key for key in figures if ("grpc_service", "no.such.Service") in key[1]]


def test_what_workers_do_is_added_up(house: Installation, disk: Path) -> None:
    figures = settled(house)
    kind = "image.create"
    assert of(figures, "darkroom_operations_begun_total", kind=kind) == 2
    assert of(figures, "darkroom_operations_ended_total", kind=kind, code="OK") == 1
    assert of(figures, "darkroom_operations_ended_total", kind=kind) == 2
    assert of(figures, "darkroom_attempts_total", outcome="succeeded") == 1
    assert of(figures, "darkroom_attempts_total", outcome="failed") == 1
    for phase in ("fetch", "inspect", "convert", "publish"):
        count = of(figures, "darkroom_phase_seconds_count", kind=kind, phase=phase, code="OK")
        assert count == 1, phase
    assert of(figures, "darkroom_phase_seconds_count", phase="fetch") == 2
    assert of(figures, "darkroom_bytes_in_total") == disk.stat().st_size
    stored = sum(path.stat().st_size for path in house.contents())
    assert of(figures, "darkroom_bytes_out_total") == stored
    # Both processes ask the database; a worker that has nothing to do asks all the time.
    assert of(figures, "darkroom_database_seconds_count", call="claim") > 2
    assert of(figures, "darkroom_database_seconds_count", call="write") >= 4


def test_the_whole_installation_is_shown(house: Installation) -> None:
    settled(house)
    figures = scraped(house.metrics_address)
    assert of(figures, "darkroom_serving") == 1
    assert of(figures, "darkroom_queue_depth") == 0
    assert of(figures, "darkroom_queue_oldest_seconds") == 0
    none_running = [value for key, value in figures.items() if ("state", "running") in key[1]]
    assert none_running == [0]
    assert of(figures, "darkroom_build_info") == 1
    assert of(figures, "process_resident_memory_bytes") > 1 << 20


def test_what_a_killed_worker_counted_stays_counted(house: Installation) -> None:
    before = of(settled(house), "darkroom_attempts_total")
    polls = of(scraped(house.metrics_address), "darkroom_database_seconds_count", call="claim")
    subprocess.run(["kill", "-9", *map(str, house.workers())], check=True)

    def ended() -> Figures | None:
        figures = scraped(house.metrics_address)
        assert of(figures, "darkroom_attempts_total") == before
        return figures if of(figures, "darkroom_workers_ended_total") == 2 else None

    figures = until(ended, "the server to see its workers' end")
    assert of(figures, "darkroom_database_seconds_count", call="claim") >= polls


def test_workers_on_their_own_have_a_port_of_their_own(house: Installation) -> None:
    environment = {**house.environment(), "DARKROOM_METRICS_LISTEN": "127.0.0.1:0"}
    log = house.folder / "work.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "darkroom", "work"], env=environment, stderr=file
        )
    try:

        def shown() -> str:
            lines = [each for each in house.log_lines(path=log) if "metrics_listen" in each]
            return str(lines[0]["metrics_listen"]) if lines else ""

        address = until(shown, "the worker's port")
        figures = until(
            lambda: (
                found
                if of(found := scraped(address), "darkroom_database_seconds_count", call="claim")
                else None
            ),
            "the worker's first look for work",
        )
        assert not [key for key in figures if key[0].startswith("darkroom_queue")]
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


def test_workers_are_summed_up_and_nothing_comes_twice() -> None:
    own, first, second = Metrics(), Metrics(), Metrics()
    shown = Exposition(own)
    own.phase("image.create", "fetch", "OK", 0.2)
    first.phase("image.create", "fetch", "OK", 0.02)
    first.phase("image.create", "convert", "OK", 3.0)
    second.retries.labels("image.create", "SOURCE_UNREACHABLE").inc(2)

    def value(name: str, **labels: str) -> float:
        total = 0.0
        for family in shown.collect():
            keys = [(each.name, tuple(each.labels.items())) for each in family.samples]
            assert len(keys) == len(set(keys))
            total += sum(
                each.value
                for each in family.samples
                if each.name == name and labels.items() <= each.labels.items()
            )
        return total

    shown.told("one", told(first).strip())
    shown.told("two", told(second).strip())
    assert value("darkroom_phase_seconds_count", phase="fetch") == 2
    assert value("darkroom_phase_seconds_bucket", phase="fetch", le="0.05") == 1
    assert value("darkroom_phase_seconds_count", phase="convert") == 1
    shown.ended("one")
    first.phase("image.create", "convert", "OK", 3.0)
    shown.told("three", told(first).strip())
    assert value("darkroom_phase_seconds_count", phase="convert") == 3
    assert value("darkroom_operation_retries_total") == 2


def test_operations_under_way_and_contents_are_asked_of_the_database(tmp_path: Path) -> None:
    house = House(tmp_path / "data")
    try:
        shown = StoreFigures(house.store, clock_seconds=lambda: time.time() + 3600)
        figures = {
            (
                sample.name,
                sample.labels.get("kind", ""),
                sample.labels.get("state", ""),
            ): sample.value
            for family in shown.collect()
            for sample in family.samples
        }
        assert figures[("darkroom_operations", "image.create", "pending")] >= 1
        waiting = sum(value for key, value in figures.items() if key[2] == "pending")
        assert figures[("darkroom_queue_depth", "", "")] == waiting
        assert 3600 <= figures[("darkroom_queue_oldest_seconds", "", "")] < 7200
        stored = house.store.content_totals()
        assert figures[("darkroom_contents", "", "")] == stored.count >= 1
        assert figures[("darkroom_contents_bytes", "", "")] == stored.stored_bytes > 0
    finally:
        house.deployment.close()


def test_nothing_is_imported_for_what_nobody_asks_for() -> None:
    program = (
        "import sys; from darkroom import wiring; from darkroom.config import Settings;"
        "import darkroom.cli.serve, darkroom.cli.work;"
        "made = wiring.instruments(Settings(), 'serve');"
        "assert made.metrics is None and made.tracing is None;"
        "sys.exit(any(name.startswith(('opentelemetry', 'prometheus')) for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
