"""An installation that many tests share, one after the other: it can be cleared in between."""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

from installation import PATIENCE_SECONDS, Installation


class ClearableInstallation(Installation):
    """Started as our pytest plugin starts its server, with the line that only the two of us have.

    It cannot be started again: the server wants a data folder without anything in it.
    """

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(PATIENCE_SECONDS)
            self.options = [f"--control-fd={theirs.fileno()}"]
            self.inherited = [theirs.fileno()]
            super().start()
            self._line = ours.makefile("rwb")
        self._answer()  # says that it serves

    def stop(self) -> None:
        super().stop()
        self._line.close()

    def clear(self) -> None:
        """Have it forget all resources, operations and contents, at once."""
        self._line.write(b"reset\n")
        self._line.flush()
        answer = self._answer()
        assert answer == {}, answer

    def _answer(self) -> object:
        return json.loads(self._line.readline())


@contextlib.contextmanager
def clearable_installation(folder: Path, source_origin: str) -> Iterator[ClearableInstallation]:
    """A running one that is ended whatever happens."""
    made = ClearableInstallation(folder, source_origin)
    try:
        made.start()
        yield made
    finally:
        made.stop()
