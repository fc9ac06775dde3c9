"""Pings on connections without calls: those of the cloud's clients are welcome, floods are not."""

import time

import grpc
import h2.errors
import pytest

from api.client import PATIENCE_SECONDS, Client
from api.conftest import LogLines, Starter
from darkroom.api import server as server_module
from darkroom.api.server import Server
from raw_grpc import Connection, Ended, connected

INTERVAL = "grpc.http2.min_ping_interval_without_data_ms"
SHORT_MS = 250
STRIKES = 2
"""So many pings too early are forgiven by gRPC's C library; one more ends the connection."""


def asked(path: str, authority: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]


def answers(connection: Connection) -> bool:
    """Whether a call on the connection still works."""
    headers = asked("/yandex.cloud.endpoint.ApiEndpointService/List", connection.address)
    return connection.call(headers, b"").trailers["grpc-status"] == "0"


def flood(connection: Connection) -> None:
    for _ in range(20):
        connection.ping()
    with pytest.raises(Ended):
        connection.read_until(lambda: False, "the end of the connection")


def test_pings_without_calls_are_welcome_for_as_long_as_they_come(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The cloud's Go SDK pings every 30 s; here time runs faster.
    options = {**dict(server_module._OPTIONS), INTERVAL: SHORT_MS}
    monkeypatch.setattr(server_module, "_OPTIONS", tuple(options.items()))
    with connected(start().address) as connection:
        for number in range(STRIKES + 3):
            time.sleep((SHORT_MS + 50) / 1000)
            connection.ping()
            connection.read_pongs(number + 1)
        assert connection.goodbye is None
        assert answers(connection)


def test_the_interval_leaves_room_below_that_of_the_clients() -> None:
    options = dict(server_module._OPTIONS)
    # gRPC for Go never pings more often than every 10 s.
    assert 1_000 <= options[INTERVAL] <= 8_000
    assert options["grpc.keepalive_permit_without_calls"] == 1


def test_a_flood_of_pings_ends_its_own_connection_and_no_other(
    server: Server, client: Client
) -> None:
    with connected(server.address) as good, connected(server.address) as bad:
        assert answers(good) and answers(bad)
        flood(bad)
        assert bad.goodbye == (h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")
        assert answers(good)
    assert len(client.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)) == 2


def test_old_connections_are_made_anew_and_no_call_is_lost(start: Starter, lines: LogLines) -> None:
    server = start(max_connection_age_seconds=0.2)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with grpc.insecure_channel(server.address) as channel:
        client = Client(channel)
        while len({line["peer"] for line in lines.calls()}) < 3:
            assert time.monotonic() < deadline, "the connection stays"
            client.raw("/yandex.cloud.compute.v1.ZoneService/List", b"")
    assert {line["code"] for line in lines.calls()} == {"OK"}
