"""Fuzzes targets by coverage, one after the other, and keeps a small corpus (`make fuzz`).

usage: python tests/fuzz/drive.py [--seconds N] [TARGET ...]

What a run finds is collected below `.cache/fuzz`. Afterwards the smallest inputs that reach all
that was reached become the target's corpus, as far as they fit. A defect ends the run with its
trace, and libFuzzer names the file that holds the input.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from fuzz import targets  # noqa: E402  the folder above it was not on the path before

FOUND = ROOT / ".cache" / "fuzz"
LOOP = Path(__file__).with_name("loop.py")
_MAX_INPUT_BYTES = {"image": 144 * 1024}
"""A stream-optimised VMDK has 128 KiB before its first grain."""
_KEPT_INPUTS = 120
_KEPT_INPUT_BYTES = 2048
"""Larger ones are kept only if they were seeds before."""


def fuzz(name: str, seconds: int) -> int:
    """Number of inputs that reach all that was reached. Raises if the target has a defect."""
    found, least = FOUND / name, FOUND / f"{name}.least"
    for folder in (found, least):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = targets.corpus(name)
    for number, data in enumerate(seeds):
        (found / f"seed-{number}").write_bytes(data)
    loop = [sys.executable, str(LOOP), name]
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_MAX_INPUT_BYTES.get(name, 4096)}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        f"-artifact_prefix={FOUND}/{name}-",
    ]
    subprocess.run([*loop, str(found), *options], check=True)
    for path in least.iterdir():
        path.unlink()
    subprocess.run([*loop, str(least), str(found), "-merge=1"], check=True, capture_output=True)
    by_size = sorted((path.read_bytes() for path in least.iterdir()), key=len)
    small = [data for data in by_size if len(data) <= _KEPT_INPUT_BYTES]
    large = [data for data in seeds if len(data) > _KEPT_INPUT_BYTES]
    targets.keep(name, [*small[:_KEPT_INPUTS], *large])
    return len(by_size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="*", default=sorted(targets.TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    arguments = parser.parse_args()
    for name in arguments.target:
        try:
            print(f"{name}: {fuzz(name, arguments.seconds)} inputs reach everything")
        except subprocess.CalledProcessError as error:
            print(f"{name}: the loop ended with {error.returncode}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
