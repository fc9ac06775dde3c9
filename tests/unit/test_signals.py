"""One signal may come while another is being acted on, and to any thread."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

PROGRAM = """
import signal, sys, threading, time
from darkroom.cli import signals

lock, done = threading.Lock(), threading.Event()

def slow():
    with lock:
        print("acting", flush=True)
        time.sleep(0.2)

def end():
    with lock:
        done.set()

def signal_myself():
    sys.stdin.readline()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

signals.on({signal.SIGUSR1: slow, signal.SIGTERM: end})
threading.Thread(target=signal_myself, daemon=True).start()
print("ready", flush=True)
done.wait()
"""


@contextlib.contextmanager
def program() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_second_signal_waits_for_what_the_first_has_begun() -> None:
    with program() as process:
        process.send_signal(signal.SIGUSR1)
        assert process.stdout is not None
        assert process.stdout.readline() == "acting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_signal_that_another_thread_gets_is_heard_while_the_main_thread_waits() -> None:
    with program() as process:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
        assert process.wait(20) == 0
