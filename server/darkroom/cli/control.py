"""The private line between a test run and the server that it started for itself.

A pair of connected sockets, one end inherited by the server: nobody else can reach it, and there
is no other way to have a server forget everything. The test run sends one word a line and is
answered with one JSON object a line; the first of them, unasked, says that the server is serving.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from darkroom import wiring
from darkroom.api.server import certificate_files
from darkroom.api.tokens import Tokens
from darkroom.config import SettingError, Settings
from darkroom.domain.errors import CATALOGUE
from darkroom.wiring import Deployment

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""How often to see whether the test run is there: what it forked holds its end of the line too."""

SUBJECT = "tests"
"""Whose the token is that a test run gets."""

Order = Callable[[], Mapping[str, Any]]


def check_disposable(settings: Settings) -> None:
    """Raise `SettingError` unless all that the server will ever hold is made from now on.

    What can be wiped over the line must be nobody's but the test run's.
    """
    if settings.database_url or settings.content_url:
        raise SettingError("a server for tests keeps everything in its data folder")
    if settings.data_dir.exists() and any(settings.data_dir.iterdir()):
        raise SettingError("a server for tests needs a data folder that is empty or missing")


class Control:
    """The server's end. This process ends at once when the other one is closed or its holder is."""

    def __init__(self, descriptor: int) -> None:
        """Raises `OSError` if the descriptor is no socket."""
        self._line = socket.socket(fileno=descriptor)
        self._line.set_inheritable(False)
        self._line.settimeout(_LOOK_SECONDS)
        self._parent = os.getppid()
        self._orders: Mapping[str, Order] = {}
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def serving(self, greeting: Mapping[str, Any], orders: Mapping[str, Order]) -> None:
        """Say so, and carry out these orders from now on."""
        self._orders = orders
        self._say(greeting)

    def _say(self, message: Mapping[str, Any]) -> None:
        self._line.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        received = b""
        while True:
            try:
                data = self._line.recv(4096)
            except TimeoutError:
                if os.getppid() == self._parent:
                    continue
                data = b""
            except OSError:
                data = b""
            if not data:
                # Whatever this process started is tied to it and goes with it.
                os._exit(1)
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                self._say(self._answer(line.decode(errors="replace")))

    def _answer(self, word: str) -> Mapping[str, Any]:
        order = self._orders.get(word)
        if order is None:
            return {"error": f"there is no order {word!r}"}
        try:
            return order()
        except Exception:
            log.exception("order failed", extra={"fields": {"order": word}})
            return {"error": f"{word} failed, see the server's output"}


def greeting(deployment: Deployment, addresses: Mapping[str, str]) -> dict[str, Any]:
    """What a test run has to know of its server before the first call."""
    settings, keyring = deployment.settings, deployment.keyring
    made_here = settings.tls_listen and not settings.tls_certificate
    token, _ = Tokens(keyring.sign, keyring.verify).issue(SUBJECT)
    return {
        **addresses,
        "ca_file": str(certificate_files(settings).ca) if made_here else "",
        "token": token,
        "folder_id": next(iter(settings.folders().names), ""),
    }


def orders(deployment: Deployment, stock: Callable[[], None]) -> dict[str, Order]:
    """What a test run may order. `stock` makes the images of the catalogue."""

    def reset() -> dict[str, Any]:
        # Rows first: whatever works on them loses its lease and clears its own files away.
        deployment.store.write(lambda tx: tx.clear())
        for content_id in deployment.contents.ids():
            deployment.contents.delete(content_id)
        stock()
        return {}

    def obstacle() -> dict[str, Any]:
        if not deployment.settings.workers:
            return {"obstacle": "The server was started without a worker"}
        failure = wiring.import_obstacle(deployment.settings)
        if failure is None:
            return {"obstacle": ""}
        return {"obstacle": f"{failure.message}. {CATALOGUE[failure.reason].advice}"}

    return {"reset": reset, "obstacle": obstacle}
