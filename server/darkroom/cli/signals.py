"""What a process does when it is signalled."""

import os
import signal
import threading
from collections.abc import Callable, Mapping


def on(actions: Mapping[signal.Signals, Callable[[], object]]) -> None:
    """From now on do what a signal is mapped to, in a thread of its own.

    Not in a handler: Python runs those between any two steps of the main thread, also inside
    another handler or while the thread holds a lock, so that an action which sets an `Event` may
    wait for itself for ever. Nor does a handler run at all while the main thread waits for a lock,
    if the kernel gave the signal to another thread, as it does when one comes on the heels of
    another. The byte that the interpreter writes at once, whichever thread it is in, does without
    both. Call this once, from the main thread.
    """
    arrived, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)

    def act() -> None:
        while numbers := os.read(arrived, 1):
            if action := actions.get(signal.Signals(numbers[0])):
                action()

    threading.Thread(target=act, name="signals", daemon=True).start()
    for number in actions:
        signal.signal(number, lambda _number, _frame: None)
