"""Pings at the pace of the cloud's Go SDK, on a connection without calls, for a few minutes."""

import time
from pathlib import Path

import pytest

from installation import installation
from raw_grpc import connected

PING_SECONDS = 30.0
PINGS = 5
"""A server that takes them for an attack ends the connection at the fourth."""


@pytest.mark.timeout(PING_SECONDS * (PINGS + 2))
def test_a_connection_that_only_pings_every_half_minute_stays(tmp_path: Path) -> None:
    settings = {"DARKROOM_WORKERS": "0", "DARKROOM_TLS_LISTEN": "127.0.0.1:0"}
    with installation(tmp_path, "http://127.0.0.1:9", **settings) as darkroom:
        ca = (darkroom.ca_file).read_bytes()
        with connected(darkroom.tls_address, ca) as connection:
            for number in range(PINGS):
                time.sleep(PING_SECONDS)
                connection.ping()
                connection.read_pongs(number + 1)
            assert connection.goodbye is None
