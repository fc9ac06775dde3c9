"""The store suite through a pooler that gives each transaction another connection.

Neither prepared statements nor notifications get through the PgBouncer of Debian 12.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from darkroom.domain.image import Image
from darkroom.storage.postgres import PostgresStore
from database_server import database, database_server
from installation import until

ROOT = Path(__file__).parents[2]
SUITE = ("images", "listings", "operations", "schema", "side_by_side", "examination")


@pytest.fixture
def pooled() -> Iterator[str]:
    """The URL of a server as PgBouncer offers it, in transaction mode."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "pgbouncer is missing"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not below pytest's folders, which only root may look into: it refuses to run as root.
    with database_server(durable=False) as server, tempfile.TemporaryDirectory() as folder:
        parts = urlsplit(server.url())
        Path(folder).chmod(0o755)
        users, settings = Path(folder) / "users", Path(folder) / "pgbouncer.ini"
        users.write_text(f'"{parts.username}" ""\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={parts.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\n"
            "default_pool_size = 4\nserver_idle_timeout = 1\nmax_client_conn = 500\n"
        )
        command = ["setpriv", "--pdeathsig", "TERM"]
        if os.geteuid() == 0:
            command += ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
        process = subprocess.Popen([*command, program, str(settings)], stderr=subprocess.DEVNULL)
        try:
            until(lambda: answers(port), "the pooler")
            yield parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
        finally:
            process.terminate()
            process.wait(30)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


def test_nothing_is_prepared_behind_a_pooler(pooled: str) -> None:
    """Clients call their statements the same: one could run what another has prepared."""
    with database(pooled) as url, contextlib.closing(PostgresStore(url)) as store:
        store.migrate()
        for _ in range(20):
            store.get(Image, "fd8")
        with psycopg.connect(url, prepare_threshold=None) as connection:
            assert connection.execute("SELECT * FROM pg_prepared_statements").fetchall() == []


def test_the_store_suite_passes_through_a_pooler_of_transactions(pooled: str) -> None:
    files = [str(ROOT / "tests" / "store" / f"test_{name}.py") for name in SUITE]
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, "-k", "postgres", *files],
        cwd=ROOT,
        env={**os.environ, "TEST_DATABASE_URL": pooled},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert " passed" in ended.stdout
