"""What a command inside can see and do, asked from inside, for each layer on its own."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from darkroom.domain.errors import Failure
from darkroom.domain.work import Interrupted
from darkroom.imaging import confine
from darkroom.imaging.sandbox import Confinement, Outcome, ProcessLimits, Sandbox
from imaging.watches import STOPPED_SECONDS, ManualWatch

LIMITS = ProcessLimits(wall_seconds=20, cpu_seconds=20, max_file_bytes=1 << 20)
LAYERS = [Confinement.BUBBLEWRAP, Confinement.LANDLOCK]
SYSTEM_PYTHON = "/usr/bin/python3"

needs_python = pytest.mark.skipif(
    not os.path.exists(SYSTEM_PYTHON), reason="the probe inside is a Python program of the system"
)


@pytest.fixture(params=LAYERS, ids=lambda layer: layer.value)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    sandbox = Sandbox(request.param)
    if not sandbox.works():
        pytest.skip(f"{request.param.value} does not work on this machine")
    return sandbox


class Room:
    """An input, an output folder, and things beside them that nobody inside may see."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.source.write_text("input")
        self.output = folder / "out"
        self.output.mkdir(mode=0o700)
        self.secret = folder / "secret"
        self.secret.write_text("secret")
        self.watch = ManualWatch()

    def python(self, sandbox: Sandbox, program: str, **options: Any) -> Outcome:
        options = {"limits": LIMITS, **options}
        return sandbox.run(
            lambda given, out: [
                *(SYSTEM_PYTHON, "-I", "-S", "-c", textwrap.dedent(program)),
                *(given, out, str(self.secret)),
            ],
            source=self.source,
            output=self.output,
            watch=self.watch,
            **options,
        )

    def ask(self, sandbox: Sandbox, body: str) -> dict[str, Any]:
        """Run `body` inside with tries; its dictionary `found` comes back."""
        program = """
            import json, os, socket, sys
            given, out, secret = sys.argv[1:]
            found = {}
            def attempt(name, action):
                try:
                    found[name] = action()
                except OSError as error:
                    found[name] = type(error).__name__
        """
        outcome = self.python(
            sandbox,
            textwrap.dedent(program) + textwrap.dedent(body) + "\nprint(json.dumps(found))",
        )
        assert outcome.exit_code == 0, outcome.complaints
        answer: dict[str, Any] = json.loads(outcome.output)
        return answer


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_the_best_layer_is_found() -> None:
    confinement = Sandbox.detect().confinement
    assert confinement is not Confinement.NONE
    if Sandbox(Confinement.BUBBLEWRAP).works():
        assert confinement is Confinement.BUBBLEWRAP


def test_without_any_layer_nothing_runs(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sandbox, "works", lambda self: False)
    sandbox = Sandbox.detect()
    assert sandbox.confinement is Confinement.NONE
    with pytest.raises(Failure) as caught:
        room.python(sandbox, "raise SystemExit(0)")
    assert caught.value.reason == "SANDBOX_UNAVAILABLE"
    with pytest.raises(Failure):
        sandbox.ensure_available()


@needs_python
def test_unconfined_only_when_told_so(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Sandbox, "works", lambda self: False)
    sandbox = Sandbox.detect(allow_unconfined=True)
    assert room.python(sandbox, "raise SystemExit(7)").exit_code == 7
    assert "UNCONFINED" in caplog.text


@needs_python
def test_reads_its_input_and_writes_its_output(sandbox: Sandbox, room: Room) -> None:
    found = room.ask(
        sandbox,
        """
        attempt("read", lambda: open(given).read())
        attempt("change input", lambda: open(given, "r+").write("x"))
        attempt("write", lambda: open(os.path.join(out, "made"), "w").write("output"))
        """,
    )
    assert found["read"] == "input"
    assert found["change input"] in ("PermissionError", "OSError")
    assert (room.output / "made").read_text() == "output"
    assert room.source.read_text() == "input"


@needs_python
def test_sees_no_other_file(sandbox: Sandbox, room: Room) -> None:
    home, here = Path.home(), Path(__file__)
    # Bubblewrap makes these devices: that they are closed all the same is Landlock's work.
    second_layer = ("/dev/zero", "/dev/urandom") if confine.landlock_version() else ()
    found = room.ask(
        sandbox,
        f"""
        for name in (secret, *{second_layer!r}, "/etc/passwd", "/etc/hostname", {str(here)!r},
                     "/proc/1/environ", "/proc/self/environ/../../1/root/etc/passwd",
                     "/dev/kmsg", "/dev/mem"):
            attempt(name, lambda: open(name).read(10))
        for name in ("/root", "/home", "/etc", "/var", "/tmp", {str(home)!r},
                     os.path.dirname(secret)):
            attempt("ls " + name, lambda: os.listdir(name))
        for name in ("/tmp/x", "/usr/x", "/x", os.path.join(os.path.dirname(secret), "x")):
            attempt("write " + name, lambda: open(name, "w").close() or "written")
        """,
    )
    for name, answer in found.items():
        if name == "write /x" and sandbox.confinement is Confinement.BUBBLEWRAP:
            continue  # the root of the namespace is a tmpfs of its own, gone with it
        if name.startswith("ls "):
            assert not isinstance(answer, list) or "secret" not in answer, name
        else:
            assert answer in (
                "FileNotFoundError",
                "PermissionError",
                "NotADirectoryError",
                "OSError",
            ), (name, answer)
    assert not Path("/x").exists()


@needs_python
def test_has_no_network(sandbox: Sandbox, room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = room.ask(
            sandbox,
            f"""
            attempt("tcp", lambda: socket.create_connection(("127.0.0.1", {port}), 1) and "open")
            attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) and "open")
            attempt("unix", lambda: socket.socket(socket.AF_UNIX) and "open")
            attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) and "open")
            """,
        )
    assert set(found.values()) == {"PermissionError"}


@needs_python
def test_is_nobody_without_rights(sandbox: Sandbox, room: Room) -> None:
    found = room.ask(
        sandbox,
        """
        found["uid"], found["gid"] = os.getuid(), os.getgid()
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        found["no new privileges"] = libc.prctl(39, 0, 0, 0, 0)
        found["seccomp"] = libc.prctl(21, 0, 0, 0, 0)
        buffer = ctypes.create_string_buffer(24)
        libc.capget(b"\\x22\\x05\\x08\\x20" + bytes(4), buffer)
        found["capabilities"] = buffer.raw.hex()
        found["unshare"] = libc.unshare(0x10000000)
        found["io_uring"] = libc.syscall(425, 1, ctypes.create_string_buffer(120))
        attempt("fork", os.fork)
        attempt("spawn", lambda: os.posix_spawn("/usr/bin/true", ["true"], {}))
        import threading
        thread = threading.Thread(target=lambda: found.update(thread=True))
        thread.start()
        thread.join()
        attempt("setuid", lambda: os.setuid(0))
        attempt("chroot", lambda: os.chroot("/usr"))
        found["environment"] = sorted(os.environ)
        import resource
        for name in ("AS", "CPU", "FSIZE", "NOFILE", "CORE"):
            found[name] = resource.getrlimit(getattr(resource, "RLIMIT_" + name))
        """,
    )
    if os.geteuid() == 0 or sandbox.confinement is Confinement.BUBBLEWRAP:
        assert (found["uid"], found["gid"]) == (confine.NOBODY, confine.NOBODY)
    assert found["no new privileges"] == 1
    assert found["seccomp"] == 2
    assert not int(found["capabilities"], 16)
    assert (found["unshare"], found["io_uring"]) == (-1, -1)
    assert found["fork"] == found["spawn"] == "PermissionError"
    assert found["thread"]
    assert found["chroot"] == "PermissionError"
    assert found["setuid"] in ("PermissionError", "OSError")  # there may be no user 0 at all
    assert set(found["environment"]) <= {"LC_ALL", "MALLOC_ARENA_MAX", "PATH", "PWD"}
    assert found["AS"] == [1024**3] * 2
    assert found["CPU"] == [20] * 2
    assert found["FSIZE"] == [1 << 20] * 2
    assert (found["NOFILE"], found["CORE"]) == ([64] * 2, [0] * 2)


@needs_python
def test_root_starts_somebody_else(sandbox: Sandbox, room: Room) -> None:
    """Seen from outside: who is nobody only in its own eyes would still own root's files."""
    if os.geteuid() != 0:
        pytest.skip("this run is not root")
    before = set(descendants(os.getpid()))
    seen: list[tuple[int, int]] = []

    def look(data: bytes) -> None:
        started = set(descendants(os.getpid())) - before
        commands = [each for each in started if each.cmdline()[:1] == [SYSTEM_PYTHON]]
        seen.extend((each.uids().real, each.gids().real) for each in commands)
        room.watch.event.set()

    with pytest.raises(Interrupted):
        room.python(sandbox, SLEEPER, on_output=look)
    assert seen == [(confine.NOBODY, confine.NOBODY)]


def test_root_of_a_container_makes_do_with_a_user_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("this run is not root")
    program = """
        from darkroom.imaging.sandbox import Confinement, Sandbox
        sandbox = Sandbox(Confinement.BUBBLEWRAP)
        print(sandbox.works(), sandbox.own_users)
    """
    without = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    ended = subprocess.run(
        [*without, sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    if ended.stdout.startswith("False"):
        pytest.skip("user namespaces do not work on this machine")
    assert ended.stdout == "True True\n", ended.stderr


@needs_python
def test_cannot_reach_other_processes(sandbox: Sandbox, room: Room) -> None:
    found = room.ask(
        sandbox,
        f"""
        attempt("signal", lambda: os.kill({os.getpid()}, 0) or "sent")
        attempt("listing", lambda: {str(os.getpid())!r} in os.listdir("/proc"))
        """,
    )
    assert found["signal"] in ("PermissionError", "ProcessLookupError")
    assert found["listing"] in (False, "PermissionError")


@needs_python
def test_limits_stop_it(sandbox: Sandbox, room: Room) -> None:
    def limited(program: str, **limits: Any) -> Outcome:
        values = {**LIMITS.__dict__, **limits}
        return room.python(sandbox, program, limits=ProcessLimits(**values))

    outcome = limited("import sys\nopen(sys.argv[2] + '/big', 'wb').write(bytes(2 << 20))")
    assert outcome.exit_code == 1 and "File too large" in outcome.complaints
    assert (room.output / "big").stat().st_size <= 1 << 20
    assert limited("x = bytearray(2 << 30)").exit_code == 1
    outcome = limited("while True: pass", cpu_seconds=1)
    assert outcome.exit_code in (-24, -9, 128 + 24, 128 + 9) and not outcome.timed_out
    started = time.monotonic()
    outcome = limited("import time; time.sleep(30)", wall_seconds=0.5)
    assert outcome.timed_out and time.monotonic() - started < 3


@needs_python
def test_as_many_threads_as_qemu_starts_fit(sandbox: Sandbox, room: Room) -> None:
    outcome = room.python(
        sandbox,
        """
        import threading
        ready = threading.Barrier(65, timeout=10)
        def work():
            data = [bytearray(100_000) for _ in range(20)]
            ready.wait()
        for _ in range(64):
            threading.Thread(target=work).start()
        ready.wait()
        """,
    )
    assert outcome.exit_code == 0, outcome.complaints


@needs_python
def test_output_is_bounded(sandbox: Sandbox, room: Room) -> None:
    heard: list[int] = []
    outcome = room.python(
        sandbox,
        """
        import sys
        for _ in range(2000):
            print("x" * 999)
            print("y" * 999, file=sys.stderr)
        """,
        on_output=lambda data: heard.append(len(data)),
    )
    assert outcome.exit_code == 0
    assert sum(heard) == 2_000_000
    assert 8000 < len(outcome.complaints) <= len(outcome.output) == 8192


SLEEPER = """
    import time
    print("up", flush=True)
    time.sleep(60)
"""


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@needs_python
def test_is_gone_at_once_when_cancelled(sandbox: Sandbox, room: Room) -> None:
    assert cancelled(sandbox, room)


@needs_python
def test_dies_with_its_parent(sandbox: Sandbox, room: Room) -> None:
    assert orphaned(sandbox, room)


@pytest.fixture
def half_made(room: Room, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Bubblewrap before its processes have tied themselves to one another: none ends another."""
    program = room.output / "bwrap"
    program.write_text("#!/bin/sh\nsleep 60 &\necho up\nwait\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(room.output), prepend=os.pathsep)
    return Sandbox(Confinement.BUBBLEWRAP)


def test_a_half_made_sandbox_is_gone_when_cancelled(half_made: Sandbox, room: Room) -> None:
    assert len(cancelled(half_made, room)) == 4  # two that watch, and two of bubblewrap


def test_a_half_made_sandbox_dies_with_its_parent(half_made: Sandbox, room: Room) -> None:
    assert len(orphaned(half_made, room)) == 4


def test_a_sandbox_that_is_not_made_this_time_may_be_later(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = room.output / "bwrap"
    program.write_text("#!/bin/sh\necho Creating new namespace failed >&2\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(room.output), prepend=os.pathsep)
    with pytest.raises(Failure) as caught:
        room.python(Sandbox(Confinement.BUBBLEWRAP), "pass")
    assert caught.value.reason == "SANDBOX_FAILED"
    assert caught.value.retry_after_seconds is not None


def cancelled(sandbox: Sandbox, room: Room) -> list[psutil.Process]:
    """The processes of a sandbox that was told to stop: they are gone."""
    pulled: list[float] = []
    running: list[psutil.Process] = []
    # Servers of other tests live in this process's care too.
    before = set(descendants(os.getpid()))

    def later() -> None:
        pulled.append(time.monotonic())
        room.watch.event.set()

    def pull(data: bytes) -> None:
        running.extend(set(descendants(os.getpid())) - before)
        threading.Timer(0.05, later).start()

    with pytest.raises(Interrupted):
        room.python(sandbox, SLEEPER, on_output=pull)
    assert time.monotonic() - pulled[0] < STOPPED_SECONDS
    assert_gone(running)
    return running


def orphaned(sandbox: Sandbox, room: Room) -> list[psutil.Process]:
    """The processes of a sandbox whose parent was killed: they are gone."""
    program = f"""
        from pathlib import Path
        from imaging.test_sandbox import Room, Sandbox, Confinement, SLEEPER
        room = Room(Path({str(room.output)!r}))
        sandbox = Sandbox(Confinement({sandbox.confinement.value!r}))
        room.python(sandbox, SLEEPER, on_output=lambda data: print("up", flush=True))
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        running = descendants(parent.pid)
        parent.kill()
    assert_gone(running)
    return running


def assert_gone(processes: list[psutil.Process]) -> None:
    """Gone, or about to be: the last microseconds of an exit can be seen from outside."""
    deadline = time.monotonic() + 3
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not list(filter(alive, processes))


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@needs_python
def test_works_without_being_root(room: Room) -> None:
    """The same launcher as an ordinary user: nothing to hand over, nothing to drop."""
    if os.geteuid() != 0:
        pytest.skip("the other tests of this run already are not root")
    if not confine.landlock_version():
        pytest.skip("no Landlock on this machine")
    request = confine.Request(
        command=[SYSTEM_PYTHON, "-I", "-S", "-c", "import os; print(os.getuid(), os.listdir('.'))"],
        folder="/usr",
        readable=["/usr", "/lib", "/lib64"],
        writable=[],
        limits={"RLIMIT_CORE": 0},
        landlock=True,
        owned=["."],
        nobody=False,
    )
    script = Path(confine.__file__).read_text()
    ended = subprocess.run(
        [SYSTEM_PYTHON, "-I", "-S", "-", json.dumps(request.__dict__)],
        input=script,
        capture_output=True,
        text=True,
        user=12345,
        group=12345,
        extra_groups=[],
    )
    assert ended.stdout.startswith("12345 ["), ended.stderr
