"""Run one command so that it sees its input, its output folder and nothing else."""

import contextlib
import enum
import fcntl
import json
import logging
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from darkroom.domain import errors
from darkroom.domain.work import Watch
from darkroom.imaging import confine

log = logging.getLogger(__name__)

# A thread reserves 8 MiB of stack and 64 MiB of allocator arena by default: a dozen busy threads
# of qemu-img then run into the limit of address space, and only on a busy machine.
_THREAD_STACK_BYTES = 2 * 1024**2
_ENVIRONMENT = {"LC_ALL": "C", "MALLOC_ARENA_MAX": "1", "PATH": "/usr/bin:/bin"}
_POLL_SECONDS = 0.05
_CAPTURE_BYTES = 8 * 1024
_READ_BYTES = 64 * 1024
_GONE_SECONDS = 5.0
_PROBE_SECONDS = 10.0
_SYSTEM_FOLDERS = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")
_NAMESPACES = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
    "--unshare-cgroup-try",
)
_INPUT = "/in"
_OUTPUT = "/out"
_SCRIPT = "/confine.py"
_FIRST_DESCRIPTOR = 10
_KEEPER = """
exec 3<&0 </dev/null
(read -r end; kill -KILL 0) <&3 >/dev/null 2>&1 &
"$@" 3<&-
code=$?
kill -KILL $!
wait
exit $code
"""
"""Runs a command and kills its whole process group when standard input ends.

Asking the kernel to do so (PR_SET_PDEATHSIG) is not enough: bubblewrap's processes do it some time
after they were started, and who loses its parent before that stays for ever.
"""


class Confinement(enum.Enum):
    """How a command is kept in."""

    BUBBLEWRAP = "bubblewrap"
    """Namespaces of its own and an unprivileged user, with Landlock where the kernel has it."""
    LANDLOCK = "landlock"
    """Landlock, an unprivileged user and a system call filter, in the host's namespaces."""
    NONE = "none"
    """Resource limits and the system call filter only."""


@dataclass(frozen=True)
class ProcessLimits:
    """What one command may use."""

    wall_seconds: float
    cpu_seconds: int
    max_file_bytes: int
    """Largest file it may write."""
    address_space_bytes: int = 1024**3
    """qemu-img starts up to 64 threads; with `_THREAD_STACK_BYTES` and one arena they fit."""
    open_files: int = 64

    def to_resources(self) -> dict[str, int]:
        return {
            "RLIMIT_AS": self.address_space_bytes,
            "RLIMIT_STACK": _THREAD_STACK_BYTES,
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_FSIZE": self.max_file_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True)
class Outcome:
    """How a command ended. Its output is for our eyes: it may hold anything, so never a user's."""

    exit_code: int
    """Above 128, or negative where all of the sandbox was killed: ended by a signal."""
    timed_out: bool
    """Stopped because of its wall-clock limit."""
    output: str
    """The first few KiB of standard output."""
    complaints: str
    """The first few KiB of standard error."""


BuildCommand = Callable[[str, str], Sequence[str]]
"""Input and output folder, as the command will see them, to its arguments."""


class Sandbox:
    """Runs commands under one confinement. `detect` finds the best one that works here."""

    def __init__(self, confinement: Confinement, *, allow_unconfined: bool = False) -> None:
        self.confinement = confinement
        self._allow_unconfined = allow_unconfined
        self.own_users = os.geteuid() != 0
        """Whether bubblewrap makes a user namespace. What root starts in one is nobody only to
        itself, so root does without if it may, and has the command run as nobody to everybody."""

    @classmethod
    def detect(cls, *, allow_unconfined: bool = False) -> "Sandbox":
        """Try the layers by using them, best first.

        With none of them the sandbox refuses to run anything, unless `allow_unconfined`.
        """
        for confinement in (Confinement.BUBBLEWRAP, Confinement.LANDLOCK):
            sandbox = cls(confinement)
            if sandbox.works():
                log.info("sandbox", extra={"fields": {"confinement": confinement.value}})
                return sandbox
        if allow_unconfined:
            log.warning(
                "conversions run UNCONFINED: a hostile image may read this server's files",
                extra={"fields": {"confinement": "none"}},
            )
        else:
            log.error(
                "no sandbox: neither user namespaces nor Landlock work here, imports are refused",
                extra={"fields": {"confinement": "none"}},
            )
        return cls(Confinement.NONE, allow_unconfined=allow_unconfined)

    def ensure_available(self) -> None:
        """Raises `Failure` SANDBOX_UNAVAILABLE if `run` would."""
        if self.confinement is Confinement.NONE and not self._allow_unconfined:
            raise errors.sandbox_unavailable()

    def run(
        self,
        build_command: BuildCommand,
        *,
        source: Path,
        output: Path | None,
        limits: ProcessLimits,
        watch: Watch,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Outcome:
        """Run a command that may read the file `source` and write into the folder `output`, if any.

        Its program must be below /usr. `on_output` hears standard output as it comes. Blocks the
        calling thread. The command is killed with everything that was started for it when the
        watch is set, when its time is over, and when this process dies, at whatever moment. When
        this returns or raises, every one of them has closed its files.

        Raises `Interrupted`; `Failure` SANDBOX_UNAVAILABLE, SANDBOX_FAILED.
        """
        self.ensure_available()
        watch.check()
        with contextlib.ExitStack() as stack:
            descriptor = _opened(source)
            stack.callback(os.close, descriptor)
            if self.confinement is Confinement.BUBBLEWRAP:
                if not self.own_users:
                    _hand_over(source, output)
                arguments = _bubblewrapped(
                    build_command, source, output, limits, own_users=self.own_users
                )
            else:
                arguments = _launched(build_command, descriptor, output, limits, self.confinement)
            outcome = _supervise(arguments, [descriptor], limits.wall_seconds, watch, on_output)
        if not outcome.timed_out and not outcome.complaints.startswith(confine.CONFINED):
            # It did work when it was detected: for instance namespaces are used up just now.
            log.error("sandbox failed", extra={"fields": {"complaints": outcome.complaints}})
            raise errors.sandbox_failed()
        return replace(outcome, complaints=outcome.complaints.removeprefix(confine.CONFINED))

    def works(self) -> bool:
        """Whether a command runs under this confinement here: tried, not guessed."""
        if self.confinement is not Confinement.BUBBLEWRAP:
            return self._proves_itself()
        if not shutil.which("bwrap"):
            return False
        if not self.own_users and not self._proves_itself():
            # Root of a container, who may not do without a user namespace.
            self.own_users = True
        return self._proves_itself()

    def _proves_itself(self) -> bool:
        limits = ProcessLimits(_PROBE_SECONDS, cpu_seconds=5, max_file_bytes=1024)
        with tempfile.NamedTemporaryFile() as probe:
            try:
                outcome = self.run(
                    lambda given, _: ["/usr/bin/test", "-r", given],
                    source=Path(probe.name),
                    output=None,
                    limits=limits,
                    watch=_NoWatch(),
                )
            except (errors.Failure, OSError):
                return False
        return outcome.exit_code == 0


class _NoWatch:
    def __init__(self) -> None:
        self.event = threading.Event()

    def check(self) -> None:
        pass

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        pass


def _opened(source: Path) -> int:
    """A descriptor to read from, with a number that the keeper's shell does not use itself."""
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    finally:
        os.close(descriptor)


def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _launcher(script: str, request: confine.Request) -> list[str]:
    return [_interpreter(), "-I", "-S", script, json.dumps(request.__dict__)]


def _system_links() -> list[str]:
    """/lib and the like as the host has them: links into /usr, or folders of their own."""
    arguments = []
    for folder in _SYSTEM_FOLDERS:
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            arguments += ["--ro-bind", folder, folder]
    return arguments


def _hand_over(source: Path, output: Path | None) -> None:
    """Give an unprivileged user what it works on. Raises `OSError`."""
    for path in (source, output):
        if path is not None:
            os.chown(path, confine.NOBODY, confine.NOBODY)


def _bubblewrapped(
    build_command: BuildCommand,
    source: Path,
    output: Path | None,
    limits: ProcessLimits,
    *,
    own_users: bool,
) -> list[str]:
    prefix = os.path.realpath(sys.base_prefix)
    request = confine.Request(
        command=list(build_command(_INPUT, _OUTPUT)),
        folder="/",
        readable=["/usr", *_SYSTEM_FOLDERS, _INPUT],
        writable=[_OUTPUT] if output else [],
        limits=limits.to_resources(),
        landlock=False,
        owned=[],
        nobody=not own_users,
    )
    arguments = [shutil.which("bwrap") or "bwrap"]
    # No --new-session: that would take them out of the process group. They have no terminal anyway.
    arguments += ["--die-with-parent", "--clearenv", *_NAMESPACES, "--cap-drop", "ALL"]
    if own_users:
        nobody = str(confine.NOBODY)
        arguments += ["--unshare-user", "--uid", nobody, "--gid", nobody]
    else:
        # To become an unprivileged user with them, and lose them, before the command runs.
        arguments += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for name, value in _ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    arguments += ["--hostname", "sandbox"]
    arguments += ["--ro-bind", "/usr", "/usr", *_system_links()]
    if not prefix.startswith("/usr/") and prefix != "/usr":
        arguments += ["--ro-bind", prefix, prefix]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    arguments += ["--ro-bind", str(Path(confine.__file__).resolve()), _SCRIPT]
    arguments += ["--ro-bind", str(source.resolve()), _INPUT]
    arguments += ["--bind", str(output.resolve()), _OUTPUT] if output else ["--dir", _OUTPUT]
    return [*arguments, "--", *_launcher(_SCRIPT, request)]


def _launched(
    build_command: BuildCommand,
    descriptor: int,
    output: Path | None,
    limits: ProcessLimits,
    confinement: Confinement,
) -> list[str]:
    # By descriptor and working folder: an unprivileged user may pass no folder on the way there.
    given = f"/proc/self/fd/{descriptor}"
    request = confine.Request(
        command=list(build_command(given, ".")),
        folder=str(output.resolve()) if output else "/",
        readable=["/usr", *_SYSTEM_FOLDERS, given],
        writable=["."] if output else [],
        limits=limits.to_resources(),
        landlock=confinement is Confinement.LANDLOCK,
        owned=[given, "."] if output else [given],
        nobody=False,
    )
    return _launcher(str(Path(confine.__file__).resolve()), request)


def _supervise(
    arguments: list[str],
    descriptors: list[int],
    wall_seconds: float,
    watch: Watch,
    on_output: Callable[[bytes], None] | None,
) -> Outcome:
    deadline = time.monotonic() + wall_seconds
    timed_out = False
    captured = {"output": bytearray(), "complaints": bytearray()}
    process = subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER, "keeper", *arguments],
        stdin=subprocess.PIPE,  # nothing is ever written: it ends when this process does
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        pass_fds=descriptors,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    with process, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "output")
        selector.register(process.stderr, selectors.EVENT_READ, "complaints")
        try:
            while selector.get_map():
                watch.check()
                if time.monotonic() > deadline:
                    timed_out = True
                    break
                for key, _ in selector.select(_POLL_SECONDS):
                    data = os.read(key.fd, _READ_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                        continue
                    kept = captured[key.data]
                    kept += data[: _CAPTURE_BYTES - len(kept)]
                    if key.data == "output" and on_output is not None:
                        on_output(data)
            while not timed_out and process.poll() is None:
                # It closed its ends of the pipes but still runs.
                watch.check()
                timed_out = time.monotonic() > deadline
                watch.event.wait(_POLL_SECONDS / 10)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            _drain(selector)
    return Outcome(
        process.returncode,
        timed_out,
        captured["output"].decode("utf-8", "replace"),
        captured["complaints"].decode("utf-8", "replace"),
    )


def _drain(selector: selectors.BaseSelector) -> None:
    """Wait until nobody holds the pipes: then every process of the sandbox has ended."""
    deadline = time.monotonic() + _GONE_SECONDS
    while selector.get_map() and time.monotonic() < deadline:
        for key, _ in selector.select(_POLL_SECONDS):
            if not os.read(key.fd, _READ_BYTES):
                selector.unregister(key.fileobj)
