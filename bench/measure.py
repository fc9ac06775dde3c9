"""Servers in subprocesses on chosen cores, and how ratios are reported."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ratio:
    """One comparison: ours over theirs, run by run in pairs; the goal is a bound on the ratio."""

    title: str
    ratio: float
    goal: float | None
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    at_most: bool = False

    @property
    def met(self) -> bool:
        if self.goal is None:
            return True
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    def line(self) -> str:
        bound = ""
        if self.goal is not None:
            sign = "<=" if self.at_most else ">="
            bound = f" (goal {sign} {self.goal}: {'met' if self.met else 'MISSED'})"
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        return (
            f"{self.title}: {self.ratio:.2f}{bound}; medians {ours:.2f} and {theirs:.2f} "
            f"{self.unit}, {len(self.ours)} pairs"
        )


def report(ratios: Sequence[Ratio]) -> int:
    """Print every ratio; 1 if a goal was missed."""
    for ratio in ratios:
        print(ratio.line())
    return 0 if all(ratio.met for ratio in ratios) else 1


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder below the project's own cache: on a real disk, where /tmp may be memory."""
    parent = Path(__file__).parents[1] / ".cache" / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Server:
    """A server that runs: where it listens, its process."""

    address: str
    pid: int


def server_command(data: Path, *more: str) -> list[str]:
    """`darkroom serve` on a free port, everything on."""
    return [
        *(sys.executable, "-m", "darkroom", "serve", "--listen", "127.0.0.1:0"),
        *("--tls-listen", ""),
        *("--data-dir", str(data), "--workers", "0", *more),
    ]


@contextlib.contextmanager
def running(command: Sequence[str], log: Path | None, cpu: int | None = None) -> Iterator[Server]:
    """Run a server; it names its address on its first output line or in its JSON log."""
    pinned = ["taskset", "-c", str(cpu), *command] if cpu is not None else list(command)
    log_file = log.open("wb") if log else None
    process = subprocess.Popen(
        pinned,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log_file,
    )
    try:
        yield Server(_address(process, log), process.pid)
    finally:
        if process.stdin:
            process.stdin.close()
        if log:
            process.terminate()
        process.wait(30)
        if log_file:
            log_file.close()


def _address(process: "subprocess.Popen[bytes]", log: Path | None) -> str:
    if log is None:
        assert process.stdout
        return process.stdout.readline().decode().strip()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                if (entry := json.loads(line)).get("event") == "serving":
                    return str(entry["listen"])
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()}")
