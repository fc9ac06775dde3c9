"""Lints the API and proves that it still serves the clients of the last release.

usage: python tools/lint_protos.py          buf lint, then buf breaking against the baseline
       python tools/lint_protos.py --renew  the same, then make the API as it is now the baseline

The baseline, protos/baseline.binpb, is renewed with each release. What was added since may still
be changed; what was released may not. Nothing is fetched: buf reads the descriptor set that
tools/generate.py has made.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "buf.yaml"
DESCRIPTOR_SET = ROOT / "generated" / "darkroom_pb" / "descriptors.binpb"
BASELINE = ROOT / "protos" / "baseline.binpb"


def main() -> int:
    """Lints, compares and maybe renews; returns the exit status."""
    parser = argparse.ArgumentParser(description="Lint the API and compare it with the baseline.")
    parser.add_argument("--renew", action="store_true", help="make a passing API the new baseline")
    renew = parser.parse_args().renew

    passed = buf("lint", str(DESCRIPTOR_SET))
    passed = buf("breaking", str(DESCRIPTOR_SET), f"--against={BASELINE}") and passed
    if passed and renew:
        BASELINE.write_bytes(released(DESCRIPTOR_SET.read_bytes()))
    return 0 if passed else 1


def buf(command: str, *arguments: str) -> bool:
    """Runs the buf beside this interpreter; whether it found nothing wrong."""
    program = Path(sys.executable).parent / "buf"
    finished = subprocess.run(
        [program, command, "--config", CONFIGURATION, *arguments], cwd=ROOT, check=False
    )
    return finished.returncode == 0


def released(descriptor_set: bytes) -> bytes:
    """The descriptor set as a baseline: without comments, which may change at any time."""
    parsed = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set)
    for file in parsed.file:
        file.ClearField("source_code_info")
    return parsed.SerializeToString(deterministic=True)


if __name__ == "__main__":
    sys.exit(main())
