"""A TCP proxy on loopback that loses connections at a chosen moment."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_CHUNK_BYTES = 65536


class Proxy:
    """Passes bytes between clients and one server; `url` is the server's with its own address."""

    def __init__(self, server_url: str) -> None:
        self._parts = urlsplit(server_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.cut_after = b""
        """Lose the connection on which a client sends this: the server gets it, nothing returns."""
        self.accepting = True

    @property
    def url(self) -> str:
        user = self._parts.netloc.rpartition("@")[0]
        host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        return self._parts._replace(netloc=f"{user}@{host}").geturl()

    def cut(self) -> None:
        """Lose every connection that is open."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def running(self) -> Iterator["Proxy"]:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            thread.join()
            self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self.accepting:
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        address = (str(self._parts.hostname), int(self._parts.port or 5432))
        with client, contextlib.suppress(OSError), socket.create_connection(address) as server:
            with self._lock:
                self._open |= {client, server}
            try:
                self._pass(client, server)
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([client, server], [], [])
            for source in ready:
                data = source.recv(_CHUNK_BYTES)
                (server if source is client else client).sendall(data)
                if not data or (source is client and self.cut_after and self.cut_after in data):
                    return
