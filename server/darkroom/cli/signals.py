"""What a process does when it is signalled."""

import signal
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue


def on(actions: Mapping[signal.Signals, Callable[[], object]]) -> None:
    """From now on do what a signal is mapped to, in a thread of its own.

    Python runs a handler between any two steps of the main thread, also inside another handler or
    while the thread holds a lock: an action that sets an `Event` there may wait for itself for
    ever. Call this from the main thread.
    """
    arrived: SimpleQueue[int] = SimpleQueue()  # the one queue that a handler may put into

    def act() -> None:
        while True:
            actions[signal.Signals(arrived.get())]()

    threading.Thread(target=act, name="signals", daemon=True).start()
    for number in actions:
        signal.signal(number, lambda given, _frame: arrived.put(given))
