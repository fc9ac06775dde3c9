"""Which URLs may be fetched: parsed strictly, then compared part by part."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from darkroom.domain import errors

PUBLIC_HOSTS = frozenset({"storage.yandexcloud.net", "storage.yandexcloud.kz"})
"""Public object storages: they never live at a private address, whatever a DNS answer says."""

_MAX_URL_LENGTH = 8192
_MAX_HOST_LENGTH = 253
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Stricter than RFC 3986 on purpose: what two parsers could read in two ways is not read at all.
_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<authority>[^/?]*)(?P<path>/[^?]*)?(?:\?(?P<query>.*))?"
)
# Test servers get another port each time. Other hosts must name theirs: a port is a service.
_ANY_PORT = re.compile(r"(https?://(?:localhost|127\.0\.0\.1|\[::1\])):\*(?=/|$)")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SIGNATURE_PARAMETERS = frozenset({"awsaccesskeyid", "signature", "expires"})
_SHOWN_LENGTH = 300


@dataclass(frozen=True)
class _Parsed:
    scheme: str
    host: str
    """Lower case; a name, or the canonical form of an IP address without brackets."""
    port: int
    segments: tuple[bytes, ...]
    """Path between its slashes, percent-decoded once, without the empty one at the end."""
    path: str
    query: str

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


def _host(text: str) -> str:
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError("the IPv6 address is not closed")
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError("its host is not an IPv6 address") from None
    host = text.lower()
    if not host:
        raise ValueError("it has no host")
    if len(host) > _MAX_HOST_LENGTH:
        raise ValueError("its host is too long")
    if host.endswith("."):
        raise ValueError("its host must not end with a dot")
    labels = host.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("its host is not a plain host name")
    if _NUMBER.fullmatch(labels[-1]):
        # 127.1, 0x7f.1 and 2130706433 are addresses to a resolver, so only one spelling is let in.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("its host is a number but not a plain IPv4 address") from None
    return host


def _authority(scheme: str, text: str) -> tuple[str, int]:
    if "@" in text:
        raise ValueError("it must not hold a user name or password")
    if "%" in text:
        raise ValueError("its host must not be percent-encoded")
    host_text, port_text = text, ""
    if text.startswith("["):
        host_text, bracket, rest = text.partition("]")
        host_text += bracket
        if rest and not rest.startswith(":"):
            raise ValueError("it has something after its IPv6 address")
        has_port, port_text = bool(rest), rest[1:]
    else:
        host_text, colon, port_text = text.partition(":")
        has_port = bool(colon)
    if not has_port:
        return _host(host_text), _DEFAULT_PORTS[scheme]
    if not re.fullmatch(r"[0-9]{1,5}", port_text) or not 0 < int(port_text) < 65536:
        raise ValueError("its port is not a number from 1 to 65535")
    return _host(host_text), int(port_text)


def _segments(path: str) -> tuple[bytes, ...]:
    if _BAD_ESCAPE.search(path):
        raise ValueError("its path has a broken percent-encoding")
    # Decoded before it is split: %2F separates for an object storage just as "/" does.
    decoded = unquote_to_bytes(path)
    if b"\\" in decoded or any(byte < 0x20 or byte == 0x7F for byte in decoded):
        raise ValueError("its path holds a backslash or a control character")
    segments = decoded.split(b"/")[1:]
    if segments and segments[-1] == b"":
        segments.pop()
    if b"" in segments:
        raise ValueError("its path holds an empty segment (//)")
    if b"." in segments or b".." in segments:
        raise ValueError("its path holds . or .. as a segment")
    return tuple(segments)


def _parse(url: str) -> _Parsed:
    """Raise `ValueError` saying what is wrong; the text never repeats the URL."""
    if len(url) > _MAX_URL_LENGTH:
        raise ValueError(f"it is longer than {_MAX_URL_LENGTH} characters")
    if not url.isascii():
        raise ValueError("it must be ASCII: a host name as xn--..., other letters as %XX")
    if any(char <= " " or char == "\x7f" for char in url):
        raise ValueError("it holds a space or a control character")
    if "\\" in url:
        raise ValueError("it holds a backslash")
    if "#" in url:
        raise ValueError("it must not have a fragment (#)")
    head, colon, rest = url.partition(":")
    match = _URL.fullmatch(head.lower() + colon + rest)
    if match is None:
        raise ValueError("it must look like https://HOST/BUCKET/KEY")
    scheme = match["scheme"]
    if scheme not in _DEFAULT_PORTS:
        raise ValueError("its scheme must be https or http")
    host, port = _authority(scheme, match["authority"])
    path = match["path"] or "/"
    return _Parsed(scheme, host, port, _segments(path), path, match["query"] or "")


@dataclass(frozen=True)
class SourceEndpoint:
    """One entry of the allow-list: everything at or below it may be fetched."""

    scheme: str
    host: str
    port: int | None
    """None for any port, which only loopback hosts can have."""
    segments: tuple[bytes, ...]
    explicit: bool
    """The operator's own storage: its name may resolve to private and loopback addresses."""


def parse_endpoint(url: str) -> SourceEndpoint:
    """Read one allow-list entry. Raises `ValueError` naming the entry and its fault."""
    given, any_port = _ANY_PORT.subn(r"\1", url)
    try:
        parsed = _parse(given)
        if parsed.query:
            raise ValueError("it must not have a query")
    except ValueError as error:
        raise ValueError(f"{redacted(url)}: {error}") from None
    return SourceEndpoint(
        parsed.scheme,
        parsed.host,
        None if any_port else parsed.port,
        parsed.segments,
        explicit=parsed.host not in PUBLIC_HOSTS,
    )


@dataclass(frozen=True)
class CheckedUrl:
    """A URL that the policy let pass; the parts are what a connection needs, verbatim."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query exactly as given: another spelling would break the signature."""
    private_allowed: bool
    """Whether the host may resolve to private and loopback addresses."""
    shown: str
    """The URL without its query, for messages and logs."""

    @property
    def is_address(self) -> bool:
        return ":" in self.host or bool(_NUMBER.fullmatch(self.host.rpartition(".")[2]))

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def _below(segments: tuple[bytes, ...], endpoint: SourceEndpoint) -> bool:
    return segments[: len(endpoint.segments)] == endpoint.segments


def _bucket_before(host: str, parent: str) -> str | None:
    """The bucket of `BUCKET.parent`, if that is what `host` is."""
    bucket = host.removesuffix("." + parent)
    return bucket if bucket != host and _BUCKET.fullmatch(bucket) else None


def _allows(endpoint: SourceEndpoint, url: _Parsed) -> bool | None:
    """None if the endpoint does not cover the URL, else whether it may be at a private address."""
    if url.scheme != endpoint.scheme or endpoint.port not in (None, url.port):
        return None
    if url.host == endpoint.host:
        return endpoint.explicit if _below(url.segments, endpoint) else None
    if url.address is not None:
        return None
    if bucket := _bucket_before(url.host, endpoint.host):
        if _below((bucket.encode(), *url.segments), endpoint):
            return endpoint.explicit
        return None
    # The other way round: BUCKET.host is listed and host/BUCKET comes. Only one label counts as
    # the bucket and the rest must still be a domain, or a listed host would open up its parents.
    if endpoint.host in PUBLIC_HOSTS or "." not in url.host or not url.segments:
        return None
    bucket = _bucket_before(endpoint.host, url.host)
    if bucket is None or "." in bucket or url.segments[0] != bucket.encode():
        return None
    # The operator named another host than this one, so private addresses stay closed.
    return False if _below(url.segments[1:], endpoint) else None


class SourcePolicy:
    """The allow-list of object storages."""

    def __init__(self, endpoints: Iterable[SourceEndpoint]) -> None:
        self._endpoints = tuple(endpoints)

    def check(self, url: str) -> CheckedUrl:
        """Let a URL pass. Raises `Failure` SOURCE_URL_INVALID or SOURCE_NOT_ALLOWED."""
        try:
            parsed = _parse(url)
        except ValueError as error:
            raise errors.source_url_invalid(str(error)) from None
        verdicts = [
            verdict
            for endpoint in self._endpoints
            if (verdict := _allows(endpoint, parsed)) is not None
        ]
        if not verdicts:
            raise errors.source_not_allowed(redacted(url))
        target = f"{parsed.path}?{parsed.query}" if parsed.query else parsed.path
        return CheckedUrl(
            parsed.scheme, parsed.host, parsed.port, target, any(verdicts), redacted(url)
        )


def source_identity(url: str) -> str:
    """The URL without its signature: signing the same object anew gives the same identity.

    Everything that begins with X-Amz- (signature version 4) and AWSAccessKeyId, Signature and
    Expires (version 2) is left out; other parameters, such as versionId, stay, sorted.
    Never raises: a URL that cannot be parsed is compared as text.
    """
    base, _, query = url.partition("?")
    kept = sorted(
        parameter
        for parameter in query.split("&")
        if parameter and not _signs(parameter.partition("=")[0].lower())
    )
    try:
        parsed = _parse(base)
        host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        base = f"{parsed.scheme}://{host}:{parsed.port}{parsed.path}"
    except ValueError:
        pass
    return "?".join([base, "&".join(kept)]) if kept else base


def _signs(parameter: str) -> bool:
    return parameter.startswith("x-amz-") or parameter in _SIGNATURE_PARAMETERS


def redacted(url: str) -> str:
    """Scheme, host and path of a URL, fit for logs and messages. Never raises."""
    shown = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, separator, rest = shown.partition("://")
    if not separator:
        return "(not a URL)"
    authority, slash, path = rest.partition("/")
    shown = scheme + separator + authority.rpartition("@")[2] + slash + path
    shown = "".join(char if char.isprintable() else "?" for char in shown)
    return shown if len(shown) <= _SHOWN_LENGTH else shown[:_SHOWN_LENGTH] + "..."
