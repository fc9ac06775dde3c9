"""One signal may come while another is being acted on."""

import signal
import subprocess
import sys

PROGRAM = """
import signal, threading, time
from darkroom.cli import signals

lock, done = threading.Lock(), threading.Event()

def slow():
    with lock:
        print("acting", flush=True)
        time.sleep(0.2)

def end():
    with lock:
        done.set()

signals.on({signal.SIGUSR1: slow, signal.SIGTERM: end})
print("ready", flush=True)
done.wait()
"""


def test_a_second_signal_waits_for_what_the_first_has_begun() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "acting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
