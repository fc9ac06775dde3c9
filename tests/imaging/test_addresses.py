"""Which addresses a name may lead to, whatever a DNS server says."""

import ipaddress
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from darkroom.domain.errors import Failure
from darkroom.domain.work import Interrupted
from darkroom.imaging.addresses import addresses_of, may_connect
from darkroom.imaging.fetch import Fetcher
from darkroom.imaging.sources import CheckedUrl, SourcePolicy, parse_endpoint
from imaging.origin import Behaviour, serving
from imaging.watches import ManualWatch

PUBLIC = ["8.8.8.8", "2a02:6b8::2:242", "213.180.193.243", "::ffff:8.8.8.8"]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fc00::1",
    "fd12::1",
    "::ffff:10.0.0.1",
]
NEVER = [
    "0.0.0.0",
    "169.254.169.254",
    "224.0.0.1",
    "239.1.1.1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "192.88.99.1",
    "::",
    "fe80::1",
    "ff02::1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "fec0::1",
    "::127.0.0.1",
    "::ffff:169.254.169.254",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert may_connect(ipaddress.ip_address(address), False)


@pytest.mark.parametrize("address", PRIVATE)
def test_private(address: str) -> None:
    assert not may_connect(ipaddress.ip_address(address), False)
    assert may_connect(ipaddress.ip_address(address), True)


@pytest.mark.parametrize("address", NEVER)
def test_never(address: str) -> None:
    assert not may_connect(ipaddress.ip_address(address), True)


def _url(endpoint: str, url: str) -> CheckedUrl:
    return SourcePolicy([parse_endpoint(endpoint)]).check(url)


def test_one_bad_answer_spoils_all() -> None:
    url = _url("https://storage.yandexcloud.net/", "https://b1b.storage.yandexcloud.net/k")
    with pytest.raises(Failure) as caught:
        addresses_of(url, 1.0, ManualWatch(), lambda host, port: ["8.8.8.8", "10.0.0.1"])
    assert caught.value.reason == "SOURCE_ADDRESS_NOT_ALLOWED"
    assert "10.0.0.1" not in caught.value.message


def test_a_listed_address_is_wanted() -> None:
    for host in ("169.254.7.7", "[::1]"):
        url = _url(f"http://{host}:81/", f"http://{host}:81/b/k")
        assert addresses_of(url, 1.0, ManualWatch()) == [host.strip("[]")]


@pytest.mark.parametrize("answer", [[], OSError("no such host")])
def test_no_address(answer: list[str] | OSError) -> None:
    def resolver(host: str, port: int) -> Sequence[str]:
        if isinstance(answer, OSError):
            raise answer
        return answer

    with pytest.raises(Failure) as caught:
        addresses_of(_url("http://h/", "http://h/b/k"), 1.0, ManualWatch(), resolver)
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("SOURCE_UNREACHABLE", 5.0)


def test_a_slow_resolver_can_be_left() -> None:
    watch, asked, released = ManualWatch(), threading.Event(), threading.Event()

    def resolver(host: str, port: int) -> Sequence[str]:
        asked.set()
        released.wait(20)
        return []

    def pull() -> None:
        asked.wait(5)
        watch.event.set()

    puller = threading.Thread(target=pull)
    puller.start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        addresses_of(_url("http://h/", "http://h/b/k"), 15.0, watch, resolver)
    assert time.monotonic() - started < 1.0
    released.set()
    puller.join()


def test_connects_to_the_address_that_was_checked(tmp_path: Path) -> None:
    """The name is resolved once; what it means a moment later plays no part."""
    asked = []

    def resolver(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with serving(Behaviour(body=b"\xeb" * 3000)) as origin:
        endpoint = parse_endpoint(f"http://store.invalid:{origin.port}/")
        fetcher = Fetcher(SourcePolicy([endpoint]), resolver=resolver)
        url = f"http://bucket.store.invalid:{origin.port}/key"
        assert fetcher.fetch(url, tmp_path / "source", ManualWatch()).size_bytes == 3000
    assert asked == ["bucket.store.invalid"]
