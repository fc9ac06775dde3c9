"""The child's side of supervision: dies with its parent, shows that it lives."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable

from darkroom.worker.supervisor import BEAT, BEATS

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, even if stopped."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Tether:
    """Beats into a pipe often enough not to be silent for `silence_seconds`.

    And ends this process at once when standard input ends.

    A beat is one byte, or what `tell` returns: bytes that end a line.
    """

    def __init__(
        self, beat_descriptor: int, silence_seconds: float, tell: Callable[[], bytes] = lambda: BEAT
    ) -> None:
        self._descriptor = beat_descriptor
        self._pause_seconds = silence_seconds / BEATS
        self._tell = tell
        self._lock = threading.Lock()
        # Before anything slow is done: the parent waits for it.
        self._write(BEAT)

    def hold(self) -> None:
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        threading.Thread(target=_end_with_input, name="tether", daemon=True).start()

    def beat(self) -> None:
        """Once more, for instance before an orderly end."""
        self._write(self._tell())

    def _beat(self) -> None:
        pause = threading.Event()
        while True:
            self.beat()
            pause.wait(self._pause_seconds)

    def _write(self, beat: bytes) -> None:
        with self._lock:
            try:
                while beat:
                    beat = beat[os.write(self._descriptor, beat) :]
            except OSError:
                os._exit(1)


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    # Whatever this process started is tied to it and goes with it.
    os._exit(1)
