"""HTTP/1.1 GET to an address that was checked, one object, nothing followed."""

import contextlib
import http.client
import re
import socket
import ssl
from dataclasses import dataclass

from darkroom.imaging.sources import CheckedUrl

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Broken(Exception):
    """The connection or the server failed in a way that may pass; the text is public."""


class CutShort(Broken):
    """The body ended before the length that was announced."""


class _PinnedConnection(http.client.HTTPConnection):
    """Connects to a given address, with the certificate checked against the host's name."""

    def __init__(self, url: CheckedUrl, address: str, timeout_seconds: float) -> None:
        super().__init__(url.host, url.port, timeout=timeout_seconds)
        self._address = address
        self._tls = _tls_context() if url.scheme == "https" else None
        self._name = url.host
        # A second handle of the same socket: closing it down works in every state, also while
        # another thread is inside connect(), the TLS handshake or a read.
        self._handle: socket.socket | None = None
        self._closed_down = False

    def connect(self) -> None:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._drop_handle()
            self._handle = plain.dup()
            if self._closed_down:
                raise OSError("closed down")
            plain.settimeout(self.timeout)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.connect((self._address, self.port))
            self.sock = plain
            if self._tls is not None:
                self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise

    def wait_at_most(self, seconds: float) -> None:
        self.sock.settimeout(seconds)

    def shut_down(self) -> None:
        """Make every call of every thread on this connection fail now, and for ever."""
        self._closed_down = True
        handle = self._handle
        if handle is not None:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close for good. `close` is not enough: http.client calls that before a body is read."""
        self.close()
        self._drop_handle()

    def _drop_handle(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@dataclass(frozen=True)
class Version:
    """What tells two objects at one URL apart."""

    size_bytes: int | None
    etag: str
    last_modified: str

    @property
    def match(self) -> str:
        """Value of If-Match, or nothing: a weak tag never matches there (RFC 9110, 13.1.1)."""
        return self.etag if self.etag.startswith('"') else ""


class Answer:
    """One response; its body is read in pieces into the caller's buffer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.range: tuple[int, int] | None = None
        total: int | None = None
        if self.status == 206:
            match = _CONTENT_RANGE.fullmatch((response.headers["Content-Range"] or "").strip())
            if match is not None:
                self.range = int(match[1]), int(match[2])
                total = None if match[3] == "*" else int(match[3])
        elif response.length is not None:
            total = response.length
        self.delimited = response.length is not None or response.chunked
        self.version = Version(
            total,
            (response.headers["ETag"] or "").strip(),
            (response.headers["Last-Modified"] or "").strip(),
        )

    @property
    def retry_after_seconds(self) -> float | None:
        text = (self._response.headers["Retry-After"] or "").strip()
        return float(text) if text.isdigit() and len(text) < 6 else None

    def close(self) -> None:
        self._response.close()

    def read_into(self, buffer: memoryview) -> int:
        """Take what has arrived, at most the buffer's length; 0 at the end of the body.

        A body cut short ends early too: the caller counts. Raises `Broken`.
        """
        response = self._response
        try:
            if response.length is None:  # chunked
                return response.readinto(buffer)
            # The stream below: readinto of the response itself waits until the buffer is full.
            count = 0
            if response.length and not response.closed:
                count = response.fp.readinto1(buffer[: response.length])
                response.length -= count
            if not response.length:
                response.close()  # the connection is free for the next request
            return count
        except http.client.IncompleteRead as error:
            raise CutShort("it closes the connection early") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Broken(_public_reason(error)) from error


class Connection:
    """A keep-alive connection to one object. Used by one thread; `shut_down` by any."""

    def __init__(
        self, url: CheckedUrl, address: str, connect_seconds: float, read_seconds: float
    ) -> None:
        """`read_seconds` is how long the server may stay silent in one read."""
        self._url = url
        self._read_seconds = read_seconds
        self._answer: Answer | None = None
        self._connection = _PinnedConnection(url, address, connect_seconds)

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._connection.release()

    def get(self, byte_range: tuple[int, int] | None, if_match: str = "") -> Answer:
        """Ask for the object or an inclusive range of it; redirects are left to the caller.

        Raises `Broken`, and `ssl.SSLCertVerificationError` when the certificate is not right.
        """
        headers = {
            "Host": self._url.host_header,
            "User-Agent": "darkroom",
            "Accept-Encoding": "identity",
        }
        if byte_range is not None:
            headers["Range"] = f"bytes={byte_range[0]}-{byte_range[1]}"
        if if_match:
            headers["If-Match"] = if_match
        connection = self._connection
        try:
            if connection.sock is None:
                connection.connect()
                connection.wait_at_most(self._read_seconds)
            connection.putrequest(
                "GET", self._url.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            self._answer = Answer(connection.getresponse())
            return self._answer
        except ssl.SSLCertVerificationError:
            self.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Broken(_public_reason(error)) from error

    def shut_down(self) -> None:
        self._connection.shut_down()


def _public_reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "it refuses connections"
    if isinstance(error, ssl.SSLError):
        return "TLS with it failed"
    return "the connection broke"
