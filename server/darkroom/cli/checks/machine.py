"""Checks of the machine that an installation runs on: files, room, sandbox, clock, sources."""

import ctypes
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from darkroom import config, wiring
from darkroom.cli.checks import Finding, failed, ok, skipped, warning
from darkroom.config import Settings
from darkroom.domain.errors import Failure
from darkroom.imaging.confine import landlock_version
from darkroom.imaging.conversion import QEMU_IMG
from darkroom.imaging.sandbox import Confinement, Sandbox
from darkroom.imaging.sources import SourceEndpoint
from darkroom.storage.port import SchemaMismatch
from darkroom.storage.sealing import Keyring

_GIB = 1 << 30
_LEAST_FREE_BYTES = 1 * _GIB
"""Less does not even hold the databases and logs of a busy day."""
_LITTLE_FREE_BYTES = 10 * _GIB
_PROGRAM_SECONDS = 10.0
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_CLOCK_UNSYNCHRONISED = 5
"""TIME_ERROR of adjtimex(2)."""
_TIMEX_BYTES = 512
"""More than any kernel's struct timex."""


def findings(settings: Settings, seconds: float) -> Iterator[Callable[[], Iterator[Finding]]]:
    """The checks, in order. No connection may take longer than `seconds`."""
    yield lambda: data_folder(settings.data_dir)
    yield lambda: secret_key(settings.secret_key_path)
    yield lambda: metadata(settings)
    yield lambda: contents(settings)
    yield lambda: free_space(settings)
    yield qemu_img
    yield lambda: sandbox(settings.allow_unconfined_conversion)
    yield clock
    for endpoint in settings.source_endpoints():
        yield lambda endpoint=endpoint: source(endpoint, seconds)  # type: ignore[misc]


def data_folder(folder: Path) -> Iterator[Finding]:
    """It is there, this user's to write in and nobody else's to read."""
    check = "data folder"
    if not folder.is_dir():
        advice = "start the server once, or name the folder with --data-dir"
        yield failed(check, f"{folder} is not there", advice)
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        advice = "run this as the user that the server runs as, or give the folder to that user"
        yield failed(check, f"{folder} cannot be written by this user", advice)
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _OTHERS:
        yield warning(check, f"{folder} is open to other users ({mode:03o})", f"chmod 700 {folder}")
        return
    yield ok(check, f"{folder} is this user's alone")


def secret_key(path: Path) -> Iterator[Finding]:
    """It can be used, and by nobody else."""
    check = "secret key"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        Keyring.load_or_create(path)
    except FileNotFoundError:
        advice = "the server makes one on its first start; name another with --secret-key-file"
        yield failed(check, f"{path} is not there", advice)
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        advice = "put back the file that the server was started with: what it sealed is lost else"
        yield failed(check, f"{path} cannot be used: {reason}", advice)
        return
    if mode & _OTHERS:
        found = f"{path} is open to others ({mode:03o}), who can then read pre-signed URLs"
        yield failed(check, found, f"chmod 600 {path}, and put a new key on its first line")
        return
    yield ok(check, f"{path} is its owner's alone")


def metadata(settings: Settings) -> Iterator[Finding]:
    """The database answers and has the schema of this program."""
    check = "database"
    # Opening one that is a file would make it.
    is_file = settings.database_url.partition(":")[0] in ("", "sqlite")
    if is_file and not settings.sqlite_path.exists():
        advice = "start the server once, or name the database with --database-url"
        yield failed(check, f"{settings.sqlite_path} is not there", advice)
        return
    try:
        store = wiring.open_store(settings)
        try:
            store.check_schema()
        finally:
            store.close()
    except SchemaMismatch as mismatch:
        yield failed(check, f"it is not of this version: {mismatch}", "run `darkroom migrate`")
    except (OSError, ValueError, Failure) as error:
        yield failed(check, f"it cannot be used: {error}", "see the log of the server")
    else:
        yield ok(check, "it answers and has the schema of this version")


def contents(settings: Settings) -> Iterator[Finding]:
    """Where images are kept can be reached."""
    check = "contents"
    if settings.content_bucket is None and not settings.contents_path.is_dir():
        advice = "start the server once, or name the folder with --content-url"
        yield failed(check, f"{settings.contents_path} is not there", advice)
        return
    try:
        wiring.open_contents(settings).probe()
    except (OSError, ValueError, Failure) as error:
        advice = "see to the object storage and its credentials, or change --content-url"
        yield failed(check, str(error), advice)
    else:
        where = settings.content_url if settings.content_bucket else settings.contents_path
        yield ok(check, f"{where} can be reached")


def free_space(settings: Settings) -> Iterator[Finding]:
    """On each file system that the server writes to."""
    folders = {"data": settings.data_dir, "scratch": settings.scratch_path}
    if settings.content_bucket is None:
        folders["contents"] = settings.contents_path
    by_device: dict[int, list[str]] = {}
    for name, folder in folders.items():
        by_device.setdefault(_existing(folder).stat().st_dev, []).append(name)
    need = settings.max_source_size + settings.max_stored_size
    for names in by_device.values():
        folder = _existing(folders[names[0]])
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize
        check = "free space"
        found = f"{free / _GIB:.1f} GiB for {', '.join(names)}"
        advice = "make room, or move it to a larger file system"
        if free < _LEAST_FREE_BYTES:
            yield failed(check, found, advice)
        elif free < _LITTLE_FREE_BYTES:
            yield warning(check, found, advice)
        elif "scratch" in names and free < need:
            yield ok(
                check, f"{found}, where the largest import allowed can take {need / _GIB:.0f} GiB"
            )
        else:
            yield ok(check, found)


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def qemu_img(program: str = QEMU_IMG) -> Iterator[Finding]:
    """What conversions run."""
    check = "qemu-img"
    advice = "install it: Debian has it in qemu-utils; without it no import succeeds"
    try:
        result = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
            check=True,
        )
    except FileNotFoundError:
        yield failed(check, f"{program} is not there", advice)
    except (OSError, subprocess.SubprocessError):
        yield failed(check, f"{program} does not run", advice)
    else:
        yield ok(check, result.stdout.partition("\n")[0])


def sandbox(allow_unconfined: bool) -> Iterator[Finding]:
    """Which confinement conversions get here: tried, as a worker does."""
    check = "sandbox"
    bubblewrap = Sandbox(Confinement.BUBBLEWRAP)
    if bubblewrap.works():
        how = "in user namespaces" if bubblewrap.own_users else "as an unprivileged user"
        yield ok(check, f"bubblewrap, {how}{', with Landlock' if landlock_version() else ''}")
        return
    why = "user namespaces do not work here" if shutil.which("bwrap") else "there is no bubblewrap"
    if Sandbox(Confinement.LANDLOCK).works():
        yield ok(check, f"Landlock; {why}")
        return
    found = f"none: {why}, and neither does Landlock"
    advice = "install bubblewrap and allow user namespaces, or use a kernel with Landlock"
    if allow_unconfined:
        yield warning(check, f"{found}; imports run unconfined", advice)
    else:
        yield failed(check, f"{found}; imports are refused", advice)


def clock() -> Iterator[Finding]:
    """The kernel knows whether anything keeps its clock right."""
    check = "clock"
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state < 0:
        yield skipped(check, "the kernel does not say whether it is kept right")
    elif state == _CLOCK_UNSYNCHRONISED:
        found = "nothing that the kernel knows of keeps it right"
        advice = "run chrony or systemd-timesyncd here: tokens and pre-signed URLs go by the clock"
        yield warning(check, found, advice)
    else:
        yield ok(check, "it is kept right")


def source(endpoint: SourceEndpoint, seconds: float) -> Iterator[Finding]:
    """A listed object storage accepts connections; nothing is asked of it."""
    check = "source"
    if endpoint.port is None:
        yield skipped(check, f"{endpoint.host} at any port")
        return
    where = f"{endpoint.host}:{endpoint.port}"
    try:
        socket.create_connection((endpoint.host, endpoint.port), seconds).close()
    except OSError as error:
        found = f"{where} cannot be reached: {error.strerror or error}"
        if f"https://{endpoint.host}/" == config.PUBLIC_OBJECT_STORAGE:
            # The default, which not everybody imports from.
            yield warning(check, found, "list the storage that you use with --source-allow")
        else:
            yield failed(check, found, "start it, open the way to it, or drop it from the list")
    else:
        yield ok(check, f"{where} accepts connections")
