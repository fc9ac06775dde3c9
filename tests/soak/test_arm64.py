"""Nothing that the image installs exists for one architecture only."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = (ROOT / "deploy/container/Containerfile").read_text()
GLIBC = range(17, 37)
"""What Debian 12's C library, 2.36, can load, from the oldest that wheels are built for."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_package_of_the_exact_version_is_there_as_a_wheel(
    tmp_path: Path, machine: str
) -> None:
    extras = re.findall(r"'\.\[([a-z0-9,]+)\]'", CONTAINERFILE)
    assert len(extras) == 1
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"),
            *("--target", str(tmp_path / "nowhere"), "--report", str(tmp_path / "report.json")),
            *("--constraint", str(ROOT / "constraints.txt"), "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", "3.11"),
            *(f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC),
            f"--platform=manylinux2014_{machine}",
            # An image with the gateway in it is to be had for both as well.
            f"{ROOT}[{extras[0]},gateway]",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    files = [each["download_info"]["url"].rpartition("/")[2] for each in report["install"]]
    built = [name for name in files if name.endswith(f"{machine}.whl")]
    assert any(name.startswith("grpcio-") for name in built)
    # The rest runs anywhere; our own package is a folder.
    others = {name for name in files if name.endswith(".whl")} - set(built)
    assert all(name.endswith("-none-any.whl") for name in others), sorted(others)
    print(f"{machine}: {len(built)} wheels built for it, {len(others)} for any machine")
