"""`darkroom doctor` on a real installation: sound at first, then with one fault after another."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from api.certificates import Authority
from darkroom.api import tls
from darkroom.cli import doctor
from darkroom.cli.checks import Finding, State, listeners, machine
from darkroom.config import Settings
from darkroom.imaging.confine import landlock_version
from installation import Installation, installation
from object_server import ObjectServer

SECONDS = 5.0
CHECKS = {
    *("data folder", "secret key", "database", "contents", "free space"),
    *("qemu-img", "sandbox", "clock", "source", "exposure", "REST gateway"),
    *("plaintext listener", "plaintext reflection", "plaintext discovery"),
    *("TLS listener", "TLS reflection", "TLS discovery", "TLS certificate", "TLS trust"),
}
DEPENDS_ON_THE_MACHINE = {"clock", "free space"}


def settings_of(running: Installation, source: ObjectServer) -> Settings:
    return Settings(
        data_dir=running.data,
        listen=running.address,
        tls_listen=running.tls_address,
        gateway_listen="",
        source_allow=(source.origin + "/",),
    )


@pytest.fixture
def settings(served: Installation, objects: ObjectServer) -> Settings:
    """Those of a running installation without a fault."""
    return settings_of(served, objects)


def examined(
    settings: Settings,
    ca: Path | None = None,
    shown: listeners.ClientCertificate | None = None,
) -> dict[str, Finding]:
    """The findings by check; of several the worst."""
    order = list(State)
    found: dict[str, Finding] = {}
    for each in doctor.findings(settings, ca, SECONDS, shown):
        before = found.get(each.check, each)
        found[each.check] = max(before, each, key=lambda one: order.index(one.state))
    return found


def complaints(settings: Settings, ca: Path | None = None) -> dict[str, Finding]:
    """What has failed or is warned of, but for what the machine itself may bring."""
    return {
        check: each
        for check, each in examined(settings, ca).items()
        if each.state in (State.WARNING, State.FAILED) and check not in DEPENDS_ON_THE_MACHINE
    }


def states(found: dict[str, Finding]) -> dict[str, State]:
    return {check: each.state for check, each in found.items()}


def closed_port() -> int:
    """A port of loopback that nobody listens on, most likely for a while."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "darkroom", "doctor", *arguments],
        env={**os.environ, **settings.to_environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- as a whole -----------------------------------------------------------------------------------


def test_of_a_sound_installation_every_check_is_fine(settings: Settings) -> None:
    result = command(settings, "--json")
    assert result.returncode == 0, result.stdout
    document = json.loads(result.stdout)
    assert document["ok"] is True
    by_check = {each["check"]: each for each in document["checks"]}
    assert set(by_check) == CHECKS
    for check, each in by_check.items():
        fine = each["state"] == "ok" or check in DEPENDS_ON_THE_MACHINE | {"REST gateway"}
        assert fine, each
        assert each["advice"] or each["state"] != "warning"


def test_a_fault_is_one_line_with_advice_and_the_status_1(settings: Settings) -> None:
    address = f"127.0.0.1:{closed_port()}"
    result = command(replace(settings, listen=address))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("failed")]
    assert line.startswith(f"failed   plaintext listener     {address} cannot be reached: ")
    assert line.endswith("start the server, or say where it listens with --listen")


def test_where_no_server_was_ever_started_nothing_is_made(tmp_path: Path) -> None:
    found = examined(Settings(data_dir=tmp_path / "none", gateway_listen="", source_allow=()))
    for check in ("data folder", "secret key", "database", "contents", "TLS trust"):
        assert found[check].state is State.FAILED, check
        assert found[check].advice
    assert list(tmp_path.iterdir()) == []


# --- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "check", "state"),
    [("", "data folder", State.WARNING), ("secret.key", "secret key", State.FAILED)],
)
def test_what_others_can_read_is_named(
    settings: Settings, file: str, check: str, state: State
) -> None:
    path = settings.data_dir / file
    mode = path.stat().st_mode
    path.chmod(mode | 0o044)
    try:
        found = complaints(settings)
    finally:
        path.chmod(mode)
    assert states(found) == {check: state}
    assert found[check].advice.startswith("chmod ")


def test_a_key_file_that_holds_none_is_named(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.write_text("c2hvcnQ=\n")
    found = complaints(replace(settings, secret_key_file=str(path)))
    assert states(found) == {"secret key": State.FAILED}
    assert "line 1" in found["secret key"].found


def test_a_database_of_another_version_is_named(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    found = complaints(replace(settings, database_url=f"sqlite:{path}"))
    assert states(found) == {"database": State.FAILED}
    path.write_bytes(b"\x7f" * 8192)
    found = complaints(replace(settings, database_url=f"sqlite:{path}"))
    assert states(found) == {"database": State.FAILED}


@pytest.mark.parametrize(
    ("limit", "state"),
    [("_LEAST_FREE_BYTES", State.FAILED), ("_LITTLE_FREE_BYTES", State.WARNING)],
)
def test_little_room_is_told_in_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, limit: str, state: State
) -> None:
    monkeypatch.setattr(machine, "_LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(machine, limit, 1 << 62)
    (found,) = machine.free_space(settings)
    assert found.state is state
    assert "data, scratch, contents" in found.found


def test_another_file_system_is_looked_at_by_itself(settings: Settings) -> None:
    elsewhere = replace(settings, content_url="file:/dev/shm/contents")
    first, second = machine.free_space(elsewhere)
    assert " data" in first.found and " scratch, contents" in second.found


@pytest.mark.parametrize("program", ["/nonexistent/qemu-img", "/bin/false"])
def test_a_missing_qemu_img_is_named(program: str) -> None:
    (found,) = machine.qemu_img(program)
    assert found.state is State.FAILED
    assert "qemu-utils" in found.advice


@pytest.mark.parametrize("allowed", [False, True])
def test_a_missing_sandbox_is_named(monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    (found,) = machine.sandbox(allowed)
    assert "there is no bubblewrap" in found.found
    if landlock_version():
        assert found.state is State.OK
    else:
        assert found.state is (State.WARNING if allowed else State.FAILED)
        assert found.advice


def test_the_clock_is_looked_at() -> None:
    (found,) = machine.clock()
    assert found.state in (State.OK, State.WARNING, State.SKIPPED)
    assert bool(found.advice) is (found.state is State.WARNING)


def test_a_source_that_is_away_is_named(settings: Settings) -> None:
    away = f"http://127.0.0.1:{closed_port()}/"
    found = complaints(replace(settings, source_allow=(away, *settings.source_allow)))
    assert states(found) == {"source": State.FAILED}
    assert found["source"].found.startswith(away.removeprefix("http://").rstrip("/"))


# --- listeners ------------------------------------------------------------------------------------


def test_a_listener_that_is_no_darkroom_is_named(settings: Settings, objects: ObjectServer) -> None:
    strange = objects.origin.removeprefix("http://")
    found = complaints(replace(settings, listen=strange, tls_listen=strange))
    for check in ("plaintext listener", "TLS listener", "TLS certificate", "TLS trust"):
        assert found[check].state is State.FAILED, check


def test_port_0_is_asked_for_by_name(settings: Settings) -> None:
    found = complaints(replace(settings, tls_listen="127.0.0.1:0"))
    assert states(found) == {"TLS listener": State.FAILED}
    assert "--tls-listen" in found["TLS listener"].advice


def test_an_advertised_address_that_leads_nowhere_is_named(
    tmp_path: Path, objects: ObjectServer
) -> None:
    nowhere = f"localhost:{closed_port()}"
    given = {
        "DARKROOM_WORKERS": "0",
        "DARKROOM_ADVERTISE": nowhere,
        # Its certificate is not for this address of loopback.
        "DARKROOM_TLS_LISTEN": "127.0.0.2:0",
    }
    with installation(tmp_path, objects.origin, **given) as running:
        found = complaints(settings_of(running, objects))
    assert found["plaintext discovery"].state is State.FAILED
    assert nowhere in found["plaintext discovery"].found
    assert "--advertise" in found["plaintext discovery"].advice
    assert found["TLS trust"].state is State.FAILED
    assert "127.0.0.2" in found["TLS trust"].found


@pytest.fixture(scope="module")
def certified(
    tmp_path_factory: pytest.TempPathFactory, objects: ObjectServer
) -> Iterator[tuple[Installation, tls.CertificateFiles]]:
    """An installation with a certificate from elsewhere."""
    folder = tmp_path_factory.mktemp("certified")
    files = tls.development_files(folder / "given")
    given = {
        "DARKROOM_WORKERS": "0",
        "DARKROOM_TLS_LISTEN": "127.0.0.1:0",
        "DARKROOM_TLS_CERTIFICATE": str(files.certificate),
        "DARKROOM_TLS_KEY": str(files.key),
    }
    with installation(folder, objects.origin, **given) as running:
        yield running, files


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (397, {}),
        (5, {"TLS certificate": State.WARNING}),
        (
            0,
            dict.fromkeys(("TLS certificate", "TLS trust", "TLS listener"), State.FAILED),
        ),
    ],
)
def test_the_end_of_a_certificate_is_seen_coming(
    certified: tuple[Installation, tls.CertificateFiles],
    objects: ObjectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    expected: dict[str, State],
) -> None:
    running, files = certified
    assert files.ca is not None
    monkeypatch.setattr(tls, "_SERVER_DAYS", days)
    shutil.copy(files.ca, tmp_path / "ca.pem")
    shutil.copy(files.ca.with_suffix(".key"), tmp_path / "ca.key")
    fresh = tls.development_files(tmp_path)
    os.replace(fresh.key, files.key)
    os.replace(fresh.certificate, files.certificate)
    settings = replace(
        settings_of(running, objects),
        tls_certificate=str(files.certificate),
        tls_key=str(files.key),
    )
    found = complaints(settings, files.ca)
    assert states(found) == expected
    if found:
        assert str(files.certificate) in found["TLS certificate"].advice


def test_what_nobody_trusts_is_named(
    certified: tuple[Installation, tls.CertificateFiles], objects: ObjectServer, tmp_path: Path
) -> None:
    running, _ = certified
    settings = replace(
        settings_of(running, objects), tls_certificate="given.pem", tls_key="given.key"
    )
    # Nothing says which authority is meant, so it would have to be one of the system's.
    found = complaints(settings)
    assert found["TLS trust"].state is State.FAILED
    assert "--ca" in found["TLS trust"].advice
    (tmp_path / "ca.pem").write_text("no certificate")
    assert complaints(settings, tmp_path / "ca.pem")["TLS trust"].state is State.FAILED


@pytest.mark.parametrize(
    ("given", "state", "told"),
    [
        ({"listen": "0.0.0.0:1"}, State.WARNING, "nobody is asked"),
        ({"tls_listen": "0.0.0.0:1"}, State.WARNING, "nobody is asked"),
        ({"listen": "0.0.0.0:1", "auth_mode": "iam"}, State.WARNING, "tokens can be read"),
        ({"tls_listen": "0.0.0.0:1", "auth_mode": "iam"}, State.OK, "are asked who they are"),
    ],
)
def test_listeners_beyond_loopback_are_told_of(
    settings: Settings, given: dict[str, str], state: State, told: str
) -> None:
    (found,) = listeners._exposure(replace(settings, **given))  # type: ignore[arg-type]
    assert found.state is state
    assert "0.0.0.0:1" in found.found and told in found.found


def test_a_listener_that_asks_for_certificates_is_looked_at(
    tmp_path: Path, objects: ObjectServer
) -> None:
    authority, files = Authority(), tls.development_files(tmp_path / "given")
    peer = authority.peer(uris=["spiffe://a/b"])
    shown = listeners.ClientCertificate(tmp_path / "peer.pem", tmp_path / "peer.key")
    for path, data in (
        (tmp_path / "clients.pem", authority.certificate),
        (shown.certificate, peer.certificate),
        (shown.key, peer.key),
    ):
        path.write_bytes(data)
    given = {
        "auth_mode": "mesh",
        "mesh_peer": "spiffe://a/b",
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
        "tls_client_ca": str(tmp_path / "clients.pem"),
    }
    variables = {f"DARKROOM_{name.upper()}": value for name, value in given.items()}
    variables |= {"DARKROOM_WORKERS": "0", "DARKROOM_TLS_LISTEN": "127.0.0.1:0"}
    with installation(tmp_path, objects.origin, **variables) as running:
        given["mesh_peer"] = (given["mesh_peer"],)  # type: ignore[assignment]
        settings = replace(settings_of(running, objects), **given)  # type: ignore[arg-type]
        without = examined(settings, files.ca)
        assert without["TLS client"].found == "a client without a certificate is refused"
        assert without["TLS listener"].state is State.SKIPPED
        assert without["TLS trust"].state is State.OK
        known = examined(settings, files.ca, shown)
        assert known["TLS listener"].state is known["TLS discovery"].state is State.OK
        assert known["TLS client"].state is State.OK
        mixed = replace(shown, key=files.key)
        assert examined(settings, files.ca, mixed)["TLS client"].state is State.FAILED


def test_a_listener_that_should_ask_for_certificates_and_does_not_is_named(
    served: Installation, settings: Settings, tmp_path: Path
) -> None:
    found = examined(replace(settings, tls_client_ca=str(tmp_path / "clients.pem")))
    assert found["TLS client"].state is State.FAILED
    assert "is let in" in found["TLS client"].found
