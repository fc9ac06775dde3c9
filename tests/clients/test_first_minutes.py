"""What a newcomer does first: `make run`, `make demo`, what the README says, Ctrl-C."""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from darkroom.cli.seaweedfs import SOCKETS, sweep_sockets
from installation import alive, descendants, until
from log_schema import check_all

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


@dataclass
class Running:
    """A development stack under `make run`, and the process in it that is `darkroom dev`."""

    make: "subprocess.Popen[bytes]"
    dev_pid: int
    data: Path
    output: Path

    def address(self, name: str) -> str:
        """HOST:PORT of a listener, by the name of its setting."""
        return str(json.loads((self.data / "stack.json").read_text())[name])

    def processes(self) -> list[int]:
        """Pids of the stack: dev, serve, worker, gateway and object storage at least."""
        found = until(
            lambda: len(pids := descendants(self.make.pid)) >= 5 and pids, "five processes"
        )
        return list(found)


def darkroom_dev(make_pid: int) -> int | None:
    """The pid of `darkroom dev` once make has started it."""
    for pid in [make_pid, *descendants(make_pid)]:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"dev" in command and any(part.endswith(b"/darkroom") for part in command):
            return pid
    return None


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    data = tmp_path / "data"
    arguments = f"--data-dir {data} --listen 127.0.0.1:0 --tls-listen 127.0.0.1:0"
    arguments += " --gateway-listen 127.0.0.1:0 --storage-port 0"
    output = tmp_path / "output"
    with output.open("w") as file:
        make = subprocess.Popen(
            ["make", "--no-print-directory", "run", f"RUN_ARGUMENTS={arguments}"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # A terminal's interrupt goes to a process group; this one is the stack's own.
            process_group=0,
        )

    def greeted() -> bool:
        assert make.poll() is None, output.read_text()
        return "Ctrl-C" in output.read_text()

    pids = []
    try:
        until(greeted, "the stack to start")
        dev_pid = until(lambda: darkroom_dev(make.pid), "darkroom dev")
        started = Running(make, dev_pid, data, output)
        pids = started.processes()
        yield started
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                make.wait(30)
        for pid in [*pids, *descendants(make.pid), make.pid]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        make.wait()
    for part in ("serve", "gateway"):
        assert check_all((data / f"{part}.log").read_text()) > 0


def shell(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def nothing_left(running: Running, pids: list[int]) -> None:
    """Neither the processes seen before nor any other that was started for this stack."""
    until(lambda: not any(alive(pid) for pid in pids), "every process to end", 10)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            belongings = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        assert str(running.data).encode() not in belongings, process


@pytest.mark.client("grpcurl", "1.8.6", "imports three disk images in `make demo`", "ran")
def test_demo_proves_three_imports_and_an_interrupt_ends_everything(running: Running) -> None:
    demo = shell(
        f"make --no-print-directory demo DEMO_ARGUMENTS='--data-dir {running.data} --mib 4'"
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stdout.count("qemu-img compare: Images are identical.") == 3
    assert demo.stdout.count("READY") == 3

    pids = running.processes()
    os.killpg(running.make.pid, signal.SIGINT)
    running.make.wait(30)
    nothing_left(running, pids)
    assert running.output.read_text().rstrip().splitlines()[-1].startswith(("stopped", "make: "))
    for text in (demo.stdout, (running.data / "serve.log").read_text()):
        assert "X-Amz" not in text


@pytest.mark.client("grpcurl", "1.8.6", "the session of the README, pasted into a shell", "ran")
def test_session_of_the_readme_runs_as_it_stands(running: Running, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    parts = re.findall(r"<!-- (?:session|rest):begin -->\s+```sh\n(.*?)```", readme, re.DOTALL)
    assert len(parts) == 2
    script = "".join(parts)
    for written, here in (
        ("/tmp/", f"{tmp_path}/"),
        ("127.0.0.1:50051", running.address("listen")),
        ("127.0.0.1:8080", running.address("gateway_listen")),
        ("dev upload", f"dev upload --data-dir {running.data}"),
        (" .darkroom", f" {running.data}"),
    ):
        script = script.replace(written, here)
    pasted = shell(script)
    assert pasted.returncode == 0, pasted.stdout + pasted.stderr
    assert '"status": "READY"' in pasted.stdout
    assert '"name":"over-rest"' in pasted.stdout
    assert '"done":true' in pasted.stdout
    assert "Images are identical." in pasted.stdout


@pytest.mark.client("grpcurl", "1.8.6", "the lines that `make run` prints, pasted", "ran")
def test_lines_that_the_stack_prints_can_be_pasted(running: Running, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
    printed = running.output.read_text()
    upload, create, get, curl = re.findall(
        r"^  (URL=.*|.*grpcurl.*|curl.*)$", printed, re.MULTILINE
    )
    created = shell(f"{upload}\n{create}".replace("disk.qcow2", str(disk)))
    assert created.returncode == 0, created.stdout + created.stderr
    operation = json.loads(created.stdout)["id"]
    read = shell(get.replace("ID", operation))
    assert json.loads(read.stdout)["id"] == operation
    (image,) = json.loads(shell(curl).stdout)["images"]
    assert image["id"] == json.loads(created.stdout)["metadata"]["imageId"]


def test_other_commands_find_the_running_stack(running: Running) -> None:
    programs, folder = ROOT / ".venv" / "bin", f"--data-dir {running.data}"
    told = f'eval "$({programs}/darkroom env grpcurl {folder})"'
    listed = shell(f'{told}\n{programs}/grpcurl "$YC_ENDPOINT" list')
    assert "yandex.cloud.compute.v1.ImageService" in listed.stdout, listed.stderr
    examined = shell(f"{programs}/darkroom doctor {folder}")
    assert examined.returncode == 0, examined.stdout
    assert f"{running.address('listen')} is SERVING" in examined.stdout
    assert re.search("^ok +REST gateway ", examined.stdout, re.MULTILINE), examined.stdout


def storage_sockets(pids: list[int]) -> list[Path]:
    """What the object storage among the processes keeps outside of its folder."""
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    (storage,) = [each for each in commands if "\0mini\0" in each]
    ports = re.findall(r"\.port\.grpc=(\d+)", storage)
    return [path for port in ports for path in SOCKETS.glob(f"seaweedfs-*-grpc-{port}.sock")]


def test_nothing_survives_a_kill_of_the_stack(running: Running) -> None:
    pids = running.processes()
    sockets = storage_sockets(pids)
    assert sockets
    os.kill(running.dev_pid, signal.SIGKILL)
    running.make.wait(10)
    nothing_left(running, pids)

    def swept() -> bool:
        # A stack begins with it; while another test holds the ports of these, it leaves them.
        sweep_sockets(SOCKETS)
        return not [path for path in sockets if path.exists()]

    until(swept, "the sockets to be swept")


def test_second_stack_and_taken_port_are_refused_with_advice(
    running: Running, tmp_path: Path
) -> None:
    darkroom = ROOT / ".venv" / "bin" / "darkroom"
    second = shell(f"{darkroom} dev --data-dir {running.data} --listen 127.0.0.1:0")
    assert second.returncode == 1
    assert second.stderr == f"darkroom: a stack runs on {running.data} already\n"
    taken = shell(
        f"{darkroom} dev --data-dir {tmp_path}/other --listen {running.address('listen')}"
    )
    assert taken.returncode == 1
    assert f"cannot listen on {running.address('listen')} (Address already in use)" in taken.stderr
    assert "--listen" in taken.stderr


def test_upload_without_a_stack_says_how_to_start_one(tmp_path: Path) -> None:
    result = shell(f"{ROOT}/.venv/bin/darkroom dev upload --data-dir {tmp_path} README.md")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (f"darkroom: no stack runs on {tmp_path}: start one with `make run`\n")
