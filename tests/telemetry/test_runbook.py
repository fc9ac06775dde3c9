"""Every runbook step of the operations guide runs, word for word, on a real installation."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from installation import Installation

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def steps() -> list[tuple[str, str]]:
    """Heading and commands of each step."""
    found = []
    for match in re.finditer(r"^```sh runbook\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        heading = HEADING.findall(GUIDE[: match.start()])[-1]
        found.append((heading, match[1]))
    return found


def test_there_is_a_step_for_every_alert() -> None:
    headed = {heading for heading, _ in steps()}
    alerts = {each for each in HEADING.findall(GUIDE) if each.startswith("Darkroom")}
    assert len(alerts) >= 10
    assert alerts <= headed


@pytest.mark.parametrize(
    ("heading", "commands"), steps(), ids=[f"{n}-{each[0]}" for n, each in enumerate(steps())]
)
def test_a_runbook_step_runs(
    house: Installation, tmp_path: Path, heading: str, commands: str
) -> None:
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env={
            **house.environment(),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "METRICS": house.metrics_address,
            "LOG": str(house.log_path),
            "BACKUP": str(tmp_path / "backup"),
            "PLACE": str(tmp_path / "place"),
            "DARKROOM_LISTEN": house.address,
            "DARKROOM_TLS_LISTEN": "",
            "DARKROOM_GATEWAY_LISTEN": "",
            "DARKROOM_SOURCE_ALLOW": house.source_origin + "/",
        },
        cwd=house.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, f"{heading}: {result.stdout}\n{result.stderr}"
    assert "command not found" not in result.stderr
    assert "Traceback" not in result.stderr
    assert "usage:" not in result.stderr
