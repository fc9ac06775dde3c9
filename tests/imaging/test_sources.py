"""The allow-list compares parsed parts; what could be read in two ways is refused."""

import itertools

import pytest

from darkroom.domain.errors import Failure
from darkroom.imaging.sources import (
    SourcePolicy,
    parse_endpoint,
    redacted,
    source_identity,
)

PUBLIC = "https://storage.yandexcloud.net/"


def reason(policy: SourcePolicy, url: str) -> str | None:
    try:
        policy.check(url)
    except Failure as failure:
        return failure.reason
    return None


ALLOWED = [
    (PUBLIC, "https://storage.yandexcloud.net/bucket/image.qcow2?X-Amz-Signature=s"),
    (PUBLIC, "https://bucket.storage.yandexcloud.net/image.qcow2"),
    (PUBLIC, "https://a.b.storage.yandexcloud.net/image.qcow2"),
    (PUBLIC, "HTTPS://Storage.YandexCloud.NET:443/bucket/%D0%BE%D0%B1%D1%80%D0%B0%D0%B7"),
    ("https://storage.yandexcloud.net", "https://storage.yandexcloud.net/bucket/image"),
    ("https://s3.example.com/bucket/", "https://s3.example.com/bucket/image"),
    ("https://s3.example.com/bucket", "https://s3.example.com/bucket/image"),
    ("https://s3.example.com/bucket/", "https://s3.example.com/%62ucket/image"),
    ("https://s3.example.com/bucket/", "https://bucket.s3.example.com/image"),
    ("https://s3.example.com/bucket/images/", "https://bucket.s3.example.com/images/a"),
    ("https://bucket.s3.example.com/", "https://s3.example.com/bucket/image"),
    ("https://bucket.s3.example.com/images/", "https://s3.example.com/bucket/images/a"),
    ("http://127.0.0.1:8333/", "http://127.0.0.1:8333/bucket/image"),
    ("http://[::1]:8333/", "http://[0:0:0:0:0:0:0:1]:8333/bucket/image"),
    ("http://127.0.0.1:*/", "http://127.0.0.1:40123/image"),
    ("http://127.0.0.1:*", "http://127.0.0.1/image"),
    ("http://localhost:*/bucket/", "http://localhost:9/bucket/image"),
    ("https://[::1]:*/", "https://[::1]:8333/bucket/image"),
]
NOT_ALLOWED = [
    (PUBLIC, "https://storage.yandexcloud.net.evil.example/bucket/image"),
    (PUBLIC, "https://evilstorage.yandexcloud.net/bucket/image"),
    (PUBLIC, "https://yandexcloud.net/storage/image"),
    (PUBLIC, "http://storage.yandexcloud.net/bucket/image"),
    (PUBLIC, "https://storage.yandexcloud.net:8443/bucket/image"),
    (PUBLIC, "https://127.0.0.1/bucket/image"),
    (PUBLIC, "https://x.storage.yandexcloud.net/image"),  # no bucket has one letter
    ("https://s3.example.com/bucket/", "https://s3.example.com/bucket2/image"),
    ("https://s3.example.com/bucket/", "https://s3.example.com/Bucket/image"),
    ("https://s3.example.com/bucket/", "https://s3.example.com/"),
    ("https://s3.example.com/bucket/", "https://other.s3.example.com/bucket/image"),
    ("https://s3.example.com/bucket/images/", "https://bucket.s3.example.com/private/a"),
    ("https://bucket.s3.example.com/", "https://s3.example.com/other/image"),
    ("https://bucket.s3.example.com/", "https://other.s3.example.com/image"),
    ("https://bucket.s3/", "https://s3/bucket/image"),  # a bare parent is too wide
    ("http://127.0.0.1:8333/", "http://127.0.0.1:8334/bucket/image"),
    ("http://127.0.0.1:8333/", "http://127.0.0.2:8333/bucket/image"),
    ("http://127.0.0.1:*/", "http://127.0.0.2:8333/image"),
    ("http://127.0.0.1:*/", "https://127.0.0.1:8333/image"),
    ("http://127.0.0.1:*/bucket/", "http://127.0.0.1:8333/other/image"),
    ("http://localhost:*/", "http://localhost.example.com:8333/image"),
    ("http://10.0.0.1/", "http://bucket.example/10.0.0.1/image"),
]
INVALID = [
    "",
    "storage.yandexcloud.net/bucket/image",
    "//storage.yandexcloud.net/bucket/image",
    "ftp://storage.yandexcloud.net/bucket/image",
    "file:///etc/passwd",
    "https:///bucket/image",
    "https://user:password@storage.yandexcloud.net/bucket/image",
    "https://storage.yandexcloud.net@evil.example/bucket/image",
    "https://evil.example\\@storage.yandexcloud.net/bucket/image",
    "https://storage.yandexcloud.net\\.evil.example/bucket/image",
    "https://storage.yandexcloud.net/bucket/image#fragment",
    "https://storage.yandexcloud.net#@evil.example/bucket/image",
    "https://storage.yandexcloud.net./bucket/image",
    "https://storage%2eyandexcloud.net/bucket/image",
    "https://storage.yandexcloud\u3002net/bucket/image",
    "https://хранилище.example/bucket/image",
    "https://storage..yandexcloud.net/bucket/image",
    "https://-storage.yandexcloud.net/bucket/image",
    "https://storage.yandexcloud.net:/bucket/image",
    "https://storage.yandexcloud.net:0/bucket/image",
    "https://storage.yandexcloud.net:65536/bucket/image",
    "https://storage.yandexcloud.net:+443/bucket/image",
    "https://storage.yandexcloud.net/bucket/../image",
    "https://storage.yandexcloud.net/bucket/%2e%2e/image",
    "https://storage.yandexcloud.net/bucket%2f..%2fimage",
    "https://storage.yandexcloud.net/bucket/./image",
    "https://storage.yandexcloud.net//bucket/image",
    "https://storage.yandexcloud.net/bucket//image",
    "https://storage.yandexcloud.net/bucket/%5c..%5cimage",
    "https://storage.yandexcloud.net/bucket/%00",
    "https://storage.yandexcloud.net/bucket/%zz",
    "https://storage.yandexcloud.net/bucket/ image",
    "https://storage.yandexcloud.net/bucket/\r\nHost: evil.example",
    "https://storage.yandexcloud.net/bucket/\timage",
    "http://2130706433/bucket/image",
    "http://0x7f000001/bucket/image",
    "http://0x7f.1/bucket/image",
    "http://127.1/bucket/image",
    "http://0177.0.0.1/bucket/image",
    "http://127.0.0.1./bucket/image",
    "http://[::1%25eth0]/bucket/image",
    "http://[::1/bucket/image",
    "http://[::1]x/bucket/image",
    "https://storage.yandexcloud.net/" + "x" * 9000,
]


@pytest.mark.parametrize(("endpoint", "url"), ALLOWED)
def test_allows(endpoint: str, url: str) -> None:
    assert reason(SourcePolicy([parse_endpoint(endpoint)]), url) is None


@pytest.mark.parametrize(("endpoint", "url"), NOT_ALLOWED)
def test_does_not_allow(endpoint: str, url: str) -> None:
    assert reason(SourcePolicy([parse_endpoint(endpoint)]), url) == "SOURCE_NOT_ALLOWED"


@pytest.mark.parametrize("url", INVALID)
def test_refuses(url: str) -> None:
    everything = [PUBLIC, "http://127.0.0.1/", "http://[::1]/"]
    policy = SourcePolicy([parse_endpoint(endpoint) for endpoint in everything])
    with pytest.raises(Failure) as caught:
        policy.check(url)
    assert caught.value.reason == "SOURCE_URL_INVALID"
    assert "password" not in caught.value.message.replace("a user name or password", "")


@pytest.mark.parametrize(
    "url",
    [
        *INVALID,
        f"{PUBLIC}bucket?list-type=2",
        "http://s3.example.com:*/",
        "http://127.0.0.2:*/",
        "http://127.0.0.1:*0/",
        "http://user:password@127.0.0.1:*/",
    ],
)
def test_an_endpoint_is_read_as_strictly(url: str) -> None:
    with pytest.raises(ValueError, match=r": (its?|the) ") as caught:
        parse_endpoint(url)
    assert "user:password" not in str(caught.value)


def test_the_request_is_sent_as_it_was_signed() -> None:
    url = "https://Storage.yandexcloud.net/b/a%2Fb%20c?X-Amz-Date=1&x=%2f&&X-Amz-Signature=s"
    checked = SourcePolicy([parse_endpoint(PUBLIC)]).check(url)
    assert checked.target == "/b/a%2Fb%20c?X-Amz-Date=1&x=%2f&&X-Amz-Signature=s"
    assert checked.host_header == "storage.yandexcloud.net"
    assert checked.shown == "https://Storage.yandexcloud.net/b/a%2Fb%20c"


def test_only_listed_hosts_may_be_private() -> None:
    def private(endpoint: str, url: str) -> bool:
        return SourcePolicy([parse_endpoint(endpoint)]).check(url).private_allowed

    assert not private(PUBLIC, "https://storage.yandexcloud.net/b/k")
    assert not private(PUBLIC, "https://bucket.storage.yandexcloud.net/k")
    assert private("https://s3.corp.example/", "https://s3.corp.example/b/k")
    assert private("https://s3.corp.example/", "https://bucket.s3.corp.example/k")
    assert not private("https://bucket.s3.corp.example/", "https://s3.corp.example/bucket/k")


def test_signing_again_changes_nothing() -> None:
    base = "https://storage.yandexcloud.net/b/k"
    same = [
        f"{base}?versionId=7&X-Amz-Signature=a&X-Amz-Date=1&X-Amz-Credential=me",
        f"{base}?X-Amz-Date=2&X-Amz-Signature=b&versionId=7",
        f"{base}?versionId=7&AWSAccessKeyId=k&Signature=s&Expires=9",
        f"{base}?x-amz-signature=c&versionId=7",
        "HTTPS://STORAGE.yandexcloud.net:443/b/k?versionId=7",
    ]
    other = [
        f"{base}?versionId=8&X-Amz-Signature=a",
        f"{base}?X-Amz-Signature=a",
        "https://storage.yandexcloud.net/b/K?versionId=7",
        "http://storage.yandexcloud.net/b/k?versionId=7",
    ]
    assert len({source_identity(url) for url in same}) == 1
    assert len({source_identity(url) for url in [same[0], *other]}) == 5
    assert "X-Amz" not in source_identity(same[0])
    for first, second in itertools.pairwise(["not a url?X-Amz-Signature=1", "?", ""]):
        assert source_identity(first) != source_identity(second) or first == "?"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/b/k?X-Amz-Signature=s#f", "https://h/b/k"),
        ("https://user:secret@h/b/k", "https://h/b/k"),
        ("https://h/b\r\n/k", "https://h/b??/k"),
        ("user:secret@h/b/k", "(not a URL)"),
        ("https://h?secret", "https://h"),
    ],
)
def test_shows_no_secret(url: str, shown: str) -> None:
    assert redacted(url) == shown
