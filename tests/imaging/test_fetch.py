"""A download either brings every byte of one version of the object or says why not."""

import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.domain.errors import Failure
from darkroom.domain.work import Interrupted
from darkroom.imaging.fetch import Fetched, Fetcher
from darkroom.imaging.fetch_limits import FetchLimits
from darkroom.imaging.sources import SourcePolicy, parse_endpoint
from imaging.origin import Behaviour, Exchange, Origin, serving
from imaging.watches import STOPPED_SECONDS, ManualWatch

BODY = os.urandom(3 * 1024**2 + 4567)
DIGEST = hashlib.sha256(BODY).hexdigest()
PART = 256 * 1024
LIMITS: dict[str, Any] = {"part_bytes": PART, "backoff_seconds": 0.01}


def fetch(origin: Origin, target: Path, watch: ManualWatch | None = None, **limits: Any) -> Fetched:
    endpoint = parse_endpoint(f"http://127.0.0.1:{origin.port}/bucket/")
    fetcher = Fetcher(SourcePolicy([endpoint]), FetchLimits(**{**LIMITS, **limits}))
    return fetcher.fetch(origin.url(), target, watch or ManualWatch())


def refused(behaviour: Behaviour, folder: Path, **limits: Any) -> Failure:
    """Fetch and return the failure, having checked that nothing is left over."""
    target = folder / "source"
    with serving(behaviour) as origin, pytest.raises(Failure) as caught:
        fetch(origin, target, **limits)
    assert not target.exists()
    assert no_threads()
    assert "secret" not in str(caught.value.to_record())
    return caught.value


def no_threads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "fetch"]


def test_reads_parts_of_one_version(tmp_path: Path) -> None:
    watch = ManualWatch()
    with serving(Behaviour(body=BODY)) as origin:
        assert fetch(origin, tmp_path / "source", watch) == Fetched(len(BODY), DIGEST)
    assert (tmp_path / "source").read_bytes() == BODY
    assert (tmp_path / "source").stat().st_mode & 0o777 == 0o600
    assert {seen.method for seen in origin.seen} == {"GET"}
    assert origin.seen[0].range == "bytes=0-0"
    assert all(seen.if_match == '"v1"' for seen in origin.seen[1:])
    assert len(origin.seen) == 1 + -(-len(BODY) // PART)
    assert watch.reports[-1] == (len(BODY), len(BODY))
    assert no_threads()


@pytest.mark.parametrize("ranges", [True, False])
def test_is_no_faster_than_is_allowed(ranges: bool, tmp_path: Path) -> None:
    most = 6 * 1024**2
    with serving(Behaviour(body=BODY, ranges=ranges)) as origin:
        started = time.monotonic()
        fetched = fetch(origin, tmp_path / "source", max_bytes_per_second=most)
        assert time.monotonic() - started >= len(BODY) / most
    assert fetched == Fetched(len(BODY), DIGEST)


@pytest.mark.parametrize("size", [1, 511, PART, PART + 1])
def test_sizes_around_a_part(size: int, tmp_path: Path) -> None:
    with serving(Behaviour(body=BODY[:size])) as origin:
        assert fetch(origin, tmp_path / "source").size_bytes == size
    assert (tmp_path / "source").read_bytes() == BODY[:size]


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(body=BODY, ranges=False),
        Behaviour(body=BODY, ranges=False, chunked=True),
        Behaviour(body=BODY, total_known=False, script=lambda n, e: whole(n, e)),
        Behaviour(body=BODY, keep_alive=False),
        Behaviour(body=BODY, keep_alive=False, ranges=False),
        Behaviour(body=BODY, etag=None),
        Behaviour(body=BODY, etag='W/"weak"'),
    ],
    ids=[
        "no ranges",
        "chunked",
        "unknown total",
        "one answer each",
        "one answer at all",
        "no etag",
        "weak etag",
    ],
)
def test_copes_with(behaviour: Behaviour, tmp_path: Path) -> None:
    with serving(behaviour) as origin:
        assert fetch(origin, tmp_path / "source") == Fetched(len(BODY), DIGEST)
    assert (tmp_path / "source").read_bytes() == BODY
    if behaviour.etag != '"v1"':
        assert not any(seen.if_match for seen in origin.seen)


def whole(number: int, exchange: Exchange) -> bool:
    if number:
        assert exchange.range is None
    return False


def test_more_connections_where_they_help(tmp_path: Path) -> None:
    body = os.urandom(16 * 1024**2)
    with serving(Behaviour(body=body, bytes_per_second=6 * 1024**2)) as origin:
        fetched = fetch(origin, tmp_path / "source")
    assert fetched.sha256 == hashlib.sha256(body).hexdigest()
    connections = len({seen.client_port for seen in origin.seen})
    assert 4 <= connections <= 8 * 2


# --- faults that pass -----------------------------------------------------------------------------


def test_resumes_by_range_after_a_reset(tmp_path: Path) -> None:
    def script(number: int, exchange: Exchange) -> bool:
        if number in (2, 4, 7):
            start, _ = exchange.head()
            exchange.send(start, 100_000)
            exchange.reset()
            return True
        return False

    with serving(Behaviour(body=BODY, script=script)) as origin:
        assert fetch(origin, tmp_path / "source").sha256 == DIGEST
    firsts = [
        int(seen.range.partition("=")[2].partition("-")[0])
        for seen in origin.seen[1:]
        if seen.range
    ]
    assert any(first % PART for first in firsts), "nothing was resumed in the middle of a part"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_tries_again_after(status: int, tmp_path: Path) -> None:
    def script(number: int, exchange: Exchange) -> bool:
        return number in (0, 1, 3, 4) and exchange.status(status, Retry_After="0")

    with serving(Behaviour(body=BODY, script=script)) as origin:
        assert fetch(origin, tmp_path / "source").sha256 == DIGEST


def test_a_stream_that_breaks_starts_over(tmp_path: Path) -> None:
    def script(number: int, exchange: Exchange) -> bool:
        if number < 2:
            exchange.head()
            exchange.send(0, 2_000_000 // (number + 1))
            return exchange.hang_up()
        return False

    with serving(Behaviour(body=BODY, ranges=False, script=script)) as origin:
        assert fetch(origin, tmp_path / "source") == Fetched(len(BODY), DIGEST)
    assert (tmp_path / "source").read_bytes() == BODY


def test_replaces_a_connection_that_went_silent(tmp_path: Path) -> None:
    def script(number: int, exchange: Exchange) -> bool:
        if number == 3:
            start, _ = exchange.head()
            exchange.send(start, 1000)
            return exchange.stall()
        return False

    with serving(Behaviour(body=BODY, script=script)) as origin:
        fetched = fetch(origin, tmp_path / "source", stall_seconds=2.0)
    assert fetched.sha256 == DIGEST


# --- faults that do not ---------------------------------------------------------------------------


def answer(status: int, since: int = 0, **headers: str) -> Callable[[int, Exchange], bool]:
    return lambda number, exchange: number >= since and exchange.status(status, b"", **headers)


def cut(number: int, exchange: Exchange) -> bool:
    """Always fewer bytes than the headers say."""
    if number == 0 and exchange.behaviour.ranges:
        return False
    start, count = exchange.head()
    exchange.send(start, min(count, 1000) if number < 3 else 0, whole=False)
    return exchange.hang_up()


def new_etag(number: int, exchange: Exchange) -> bool:
    if number >= 3:
        exchange.send(*exchange.head(etag='"v2"'))
    return number >= 3


def new_size(number: int, exchange: Exchange) -> bool:
    if number >= 3:
        exchange.send(*exchange.head(total=len(BODY) - 1))
    return number >= 3


def other_part(number: int, exchange: Exchange) -> bool:
    if number and exchange.range:
        exchange.range = exchange.range[0], exchange.range[1] - 1
    return False


def stall(number: int, exchange: Exchange) -> bool:
    start, _ = exchange.head()
    exchange.send(start, 1000)
    return exchange.stall()


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "404": ("SOURCE_NOT_FOUND_AT_URL", {"script": answer(404)}, {}),
    "410": ("SOURCE_NOT_FOUND_AT_URL", {"script": answer(410)}, {}),
    "403": ("SOURCE_FORBIDDEN", {"script": answer(403)}, {}),
    "401": ("SOURCE_FORBIDDEN", {"script": answer(401)}, {}),
    "403 midway": ("SOURCE_FORBIDDEN", {"script": answer(403, since=3)}, {}),
    "404 midway": ("SOURCE_NOT_FOUND_AT_URL", {"script": answer(404, since=3)}, {}),
    "400": ("SOURCE_REFUSED", {"script": answer(400)}, {}),
    "redirect": (
        "SOURCE_REDIRECTED",
        {"script": answer(302, Location="http://169.254.169.254/")},
        {},
    ),
    "empty": ("SOURCE_EMPTY", {"body": b""}, {}),
    "empty, no ranges": ("SOURCE_EMPTY", {"body": b"", "ranges": False}, {}),
    "empty, chunked": ("SOURCE_EMPTY", {"body": b"", "ranges": False, "chunked": True}, {}),
    "too large": ("SOURCE_TOO_LARGE", {}, {"max_bytes": len(BODY) - 1}),
    "too large, chunked": (
        "SOURCE_TOO_LARGE",
        {"ranges": False, "chunked": True},
        {"max_bytes": len(BODY) - 1},
    ),
    "changed by If-Match": ("SOURCE_CHANGED", {"script": answer(412, since=3)}, {}),
    "changed by ETag": ("SOURCE_CHANGED", {"script": new_etag}, {}),
    "changed by weak ETag": ("SOURCE_CHANGED", {"script": new_etag, "etag": 'W/"v1"'}, {}),
    "changed by size": ("SOURCE_CHANGED", {"script": new_size}, {}),
    "416 midway": ("SOURCE_CHANGED", {"script": answer(416, since=3)}, {}),
    "another part": ("SOURCE_ANSWER_INVALID", {"script": other_part}, {}),
    "no length": ("SOURCE_ANSWER_INVALID", {"ranges": False, "content_length": False}, {}),
    "cut": ("SOURCE_TRUNCATED", {"script": cut}, {}),
    "cut, no ranges": ("SOURCE_TRUNCATED", {"script": cut, "ranges": False}, {}),
    "cut, chunked": ("SOURCE_TRUNCATED", {"script": cut, "ranges": False, "chunked": True}, {}),
    "always 503": ("SOURCE_UNREACHABLE", {"script": answer(503)}, {}),
    "stall": ("SOURCE_STALLED", {"script": stall}, {"stall_seconds": 0.6}),
    "trickle": ("SOURCE_STALLED", {"bytes_per_second": 500}, {"stall_seconds": 0.6}),
    "slow": (
        "SOURCE_TOO_SLOW",
        {"bytes_per_second": 100_000},
        {"total_seconds": 0.5, "max_connections": 1},
    ),
    "connection reset": (
        "SOURCE_UNREACHABLE",
        {"script": lambda number, exchange: bool(exchange.reset()) or True},
        {},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, tmp_path: Path) -> None:
    reason, faults, limits = REFUSED[case]
    failure = refused(Behaviour(**{"body": BODY, **faults}), tmp_path, **limits)
    assert failure.reason == reason
    passing = {"SOURCE_UNREACHABLE", "SOURCE_STALLED"}
    assert (failure.retry_after_seconds is not None) == (reason in passing)


def test_nobody_listens(tmp_path: Path) -> None:
    with serving(Behaviour()) as origin:
        pass
    with pytest.raises(Failure) as caught:
        fetch(origin, tmp_path / "source", attempts=2)
    assert caught.value.reason == "SOURCE_UNREACHABLE"
    assert "refuses connections" in caught.value.message


def test_no_room(tmp_path: Path) -> None:
    """A real limit of the kernel, in a process of its own because it stays."""
    with serving(Behaviour(body=BODY)) as origin:
        program = (
            "import resource, signal, sys\n"
            "from pathlib import Path\n"
            "from darkroom.domain.errors import Failure\n"
            "from darkroom.imaging.fetch import Fetcher\n"
            "from darkroom.imaging.sources import SourcePolicy, parse_endpoint\n"
            "from imaging.watches import ManualWatch\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
            "fetcher = Fetcher(SourcePolicy([parse_endpoint(sys.argv[1])]))\n"
            "try:\n"
            "    fetcher.fetch(sys.argv[2], Path(sys.argv[3]), ManualWatch())\n"
            "except Failure as failure:\n"
            "    print(failure.reason, failure.retry_after_seconds)\n"
        )
        ended = subprocess.run(
            [
                *(sys.executable, "-c", program),
                *(f"http://127.0.0.1:{origin.port}/", origin.url(), tmp_path / "source"),
            ],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert ended.stdout.split() == ["STORAGE_FULL", "30.0"]
    assert not (tmp_path / "source").exists()


def test_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("mine")
    with serving(Behaviour(body=BODY)) as origin, pytest.raises(FileExistsError):
        fetch(origin, tmp_path / "source")
    assert (tmp_path / "source").read_text() == "mine"


def test_ignores_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    with serving(Behaviour(body=BODY)) as origin:
        assert fetch(origin, tmp_path / "source").sha256 == DIGEST


# --- interruption ---------------------------------------------------------------------------------


def silent(number: int, exchange: Exchange) -> bool:
    return exchange.stall()


@pytest.mark.parametrize(
    "faults",
    [
        {"script": silent},
        {"script": stall},
        {"bytes_per_second": 300_000},
        {"bytes_per_second": 300_000, "ranges": False},
        {"bytes_per_second": 300_000, "keep_alive": False},
        {"script": answer(503, Retry_After="20")},
    ],
    ids=["no answer", "stalled body", "many parts", "one stream", "one answer each", "back-off"],
)
def test_stops_at_once(faults: dict[str, Any], tmp_path: Path) -> None:
    watch = ManualWatch()
    with serving(Behaviour(**{"body": BODY, **faults})) as origin:
        pulled: list[float] = []

        def pull() -> None:
            deadline = time.monotonic() + 5
            while not origin.seen and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.3)
            pulled.append(time.monotonic())
            watch.event.set()

        puller = threading.Thread(target=pull)
        puller.start()
        with pytest.raises(Interrupted):
            fetch(origin, tmp_path / "source", watch, stall_seconds=60.0)
        took = time.monotonic() - pulled[0]
        puller.join()
        assert took < STOPPED_SECONDS
        assert no_threads()
        assert not (tmp_path / "source").exists()
        origin.ended.set()
        deadline = time.monotonic() + 5
        while origin.open_connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not origin.open_connections


def test_memory_stays_flat(tmp_path: Path) -> None:
    file = tmp_path / "object"
    file.touch()
    os.truncate(file, 256 * 1024**2)
    with serving(Behaviour(file=file)) as origin:
        fetch(origin, tmp_path / "warm", part_bytes=8 * 1024**2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fetched = fetch(origin, tmp_path / "source", part_bytes=8 * 1024**2)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    expected = hashlib.sha256()
    for _ in range(256):
        expected.update(bytes(1024**2))
    assert fetched == Fetched(256 * 1024**2, expected.hexdigest())
    assert grown < 32 * 1024
