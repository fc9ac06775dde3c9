"""Virtual environments for clients that cannot live in ours, each made once and kept.

The official SDK cannot be imported beside our generated modules: two copies of one .proto file do
not fit into one process. So the tests run it as its users do, in an environment of its own.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

VENVS = Path(__file__).resolve().parents[2] / ".cache" / "venvs"

YANDEXCLOUD = "yandexcloud==0.413.0"
"""The official SDK, in the version whose messages and methods protos/ was checked against."""

INSTALL_SECONDS = 600.0


def environment(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment that holds these requirements and what they need.

    It is kept below `.cache/venvs` and made again when the requirements or our Python change, so
    only the first run needs the network. Test processes that ask at once wait for the one that
    makes it. Nobody installs anything into it afterwards: take a `copy` for that.

    Args:
        name: of the environment; one name belongs to one list of requirements.
        requirements: as pip takes them, pinned, so that every run tests the same.

    Raises:
        subprocess.CalledProcessError: pip has failed; its reasons are on standard error.
    """
    wanted = "\n".join([sys.version, *requirements])
    folder = VENVS / name
    # Written last: an environment without it was not finished.
    stamp = folder / "wanted.sha256"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    VENVS.mkdir(parents=True, exist_ok=True)
    with (VENVS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=False, symlinks=True)
            # Compiling the thousands of modules of an SDK costs more than the few that are used.
            pip(folder / "bin" / "python", "install", "--no-compile", *requirements)
            stamp.write_text(digest)
    return folder / "bin" / "python"


def copy(python: Path, folder: Path) -> Path:
    """The interpreter of a copy of an environment, in a new folder, to install things into."""
    shutil.copytree(python.parent.parent, folder, symlinks=True)
    return folder / "bin" / "python"


def pip(python: Path, command: str, *arguments: str) -> str:
    """Runs our own pip on the environment of an interpreter; what it says on standard output.

    Raises:
        subprocess.CalledProcessError: pip has failed; its reasons are on standard error.
    """
    ours = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    quiet = ["--quiet"] if command == "install" else []
    finished = subprocess.run(
        [*ours, command, *quiet, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    return finished.stdout
