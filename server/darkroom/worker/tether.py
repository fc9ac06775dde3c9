"""The child's side of supervision: dies with its parent, shows that it lives."""

import ctypes
import os
import signal
import threading

from darkroom.worker.supervisor import BEAT_SECONDS

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, even if stopped."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def hold(beat_descriptor: int) -> None:
    """Beat into the pipe, and end this process at once when standard input ends."""
    threading.Thread(target=_beat, args=(beat_descriptor,), name="beat", daemon=True).start()
    threading.Thread(target=_end_with_input, name="tether", daemon=True).start()


def _beat(descriptor: int) -> None:
    pause = threading.Event()
    while True:
        try:
            os.write(descriptor, b".")
        except OSError:
            os._exit(1)
        pause.wait(BEAT_SECONDS)


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    # Whatever this process started is tied to it and goes with it.
    os._exit(1)
