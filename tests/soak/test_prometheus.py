"""Debian's Prometheus reads our rules, scrapes a real installation and fires an alert."""

import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from installation import Installation, installation, until
from object_server import ObjectServer

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "rules.yaml"),
        ("check", "config", "prometheus.yaml"),
        ("test", "rules", "rules_test.yaml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(command: tuple[str, ...]) -> None:
    result = subprocess.run(
        ["promtool", *command], cwd=RULES, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Prometheus:
    """One that scrapes `target` every second."""

    def __init__(self, folder: Path, target: str) -> None:
        settings = yaml.safe_load((RULES / "prometheus.yaml").read_text())
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        settings["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        shutil.copy(RULES / "rules.yaml", folder)
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
        self.address = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [
                "prometheus",
                *("--config.file", str(folder / "prometheus.yaml")),
                *("--storage.tsdb.path", str(folder / "tsdb")),
                *("--web.listen-address", self.address, "--log.level", "error"),
            ],
            stderr=subprocess.DEVNULL,
        )

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def value(self, query: str) -> float | None:
        found = self.ask("query", query=query)
        return float(found["result"][0]["value"][1]) if found and found["result"] else None


@pytest.fixture
def darkroom(tmp_path: Path, source: ObjectServer) -> Iterator[Installation]:
    with installation(
        tmp_path, source.origin, DARKROOM_METRICS_LISTEN="127.0.0.1:0", DARKROOM_LEASE_SECONDS="2"
    ) as running:
        yield running


@pytest.fixture
def prometheus(tmp_path: Path, darkroom: Installation) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path, darkroom.metrics_address)
    try:
        yield running
    finally:
        running.process.terminate()
        running.process.wait(30)


def test_prometheus_scrapes_an_installation(
    darkroom: Installation, prometheus: Prometheus, source: ObjectServer, disk: Path
) -> None:
    until(lambda: prometheus.value("up") == 1, "a scrape")
    begun = darkroom.create(source.url(disk.name), name="scraped")
    assert not darkroom.done(begun.id).HasField("error")
    until(
        lambda: prometheus.value('sum(darkroom_operations_ended_total{code="OK"})') == 1,
        "the import to be counted",
    )
    for query in (
        'sum(grpc_server_handled_total{grpc_method="Create",grpc_code="OK"})',
        'darkroom_phase_seconds_count{phase="convert"}',
        "darkroom_serving",
        "darkroom_build_info",
    ):
        assert prometheus.value(query) == 1, query
    until(lambda: prometheus.value("darkroom:queue_depth") == 0, "a recording rule")
    groups = prometheus.ask("rules")["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert set(health.values()) <= {"ok", "unknown"}, health
    # Every series of every rule was read without a word of complaint.
    (target,) = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
