"""Parts of authentication by themselves: tokens, followed files, revocations."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.api.access.revocations import Revocations, revoke
from darkroom.api.following import LOOK_SECONDS, Followed, stamp
from darkroom.api.tokens import Tokens
from darkroom.config import SettingError, Settings, load
from darkroom.domain import errors
from darkroom.domain.errors import Failure
from darkroom.storage.sealing import Keyring
from darkroom.storage.sqlite import SqliteStore

KEYRING = Keyring([bytes(32)])


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_token_says_what_it_was_given_for_until_it_ends() -> None:
    clock = Clock()
    tokens = Tokens(KEYRING.sign, KEYRING.verify, clock, lifetime_seconds=60)
    text, expires_s = tokens.issue("ci", "key", by="admin")
    claims = tokens.claims(text)
    assert claims is not None
    assert (claims.subject, claims.credential_id, claims.by) == ("ci", "key", "admin")
    assert claims.expires_s == expires_s == clock.now + 60
    assert claims.issued_us == clock.now * 1e6
    clock.now += 59.5
    assert tokens.subject(text) == "ci"
    clock.now += 0.5
    assert tokens.claims(text) is None and tokens.subject(text) == ""


def test_a_token_ends_no_later_than_it_may() -> None:
    clock = Clock()
    tokens = Tokens(KEYRING.sign, KEYRING.verify, clock, lifetime_seconds=60)
    assert tokens.issue("ci", at_most_until_s=int(clock.now) + 5)[1] == clock.now + 5
    assert tokens.issue("ci", at_most_until_s=int(clock.now) + 500)[1] == clock.now + 60


def test_every_token_has_an_id_of_its_own() -> None:
    tokens = Tokens(KEYRING.sign, KEYRING.verify, Clock())
    assert len({tokens.issue("ci")[0] for _ in range(100)}) == 100


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"sub": "ci"}'])
def test_even_signed_nonsense_is_no_token(payload: bytes) -> None:
    body = f"t1.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}"
    signature = base64.urlsafe_b64encode(KEYRING.sign(body.encode())).rstrip(b"=").decode()
    tokens = Tokens(KEYRING.sign, KEYRING.verify, Clock())
    assert tokens.claims(f"{body}.{signature}") is None


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path, clock, reads = tmp_path / "file", Clock(0.0), []
    path.write_text("1")

    def read() -> int:
        reads.append(path.read_text())
        return int(reads[-1])

    followed = Followed("numbers", lambda: stamp(path), read, clock)
    for text, value in (("1", 1), ("2", 2), ("two", 2), ("two", 2), ("3", 3)):
        if path.read_text() != text:
            path.write_text(text)
        followed.current()
        clock.now += LOOK_SECONDS
        assert followed.current() == value
    assert reads == ["1", "2", "two", "3"]
    path.unlink()
    clock.now += LOOK_SECONDS
    assert followed.current() == 3


def test_what_cannot_be_read_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Followed("numbers", lambda: stamp(tmp_path / "none"), lambda: 1)


class Broken:
    """A store that is out of reach when it is told to be."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.away = False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise errors.store_busy()
        return getattr(self._store, name)


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    store = SqliteStore(tmp_path / "metadata.sqlite")
    store.migrate()
    return Broken(store)


def test_revocations_are_looked_at_every_second(broken: Any) -> None:
    clock, monotonic = Clock(), Clock(0.0)
    revocations = Revocations(broken, clock, monotonic)
    now_us = int(clock.now * 1e6)
    assert not revocations.cover(("account:ci",), now_us - 1)
    broken.write(lambda tx: revoke(tx, "account:ci", now_us))
    broken.write(lambda tx: revoke(tx, "credential:key", now_us, credential=True))
    monotonic.now += 1.0
    assert revocations.cover(("token:1", "account:ci"), now_us)
    assert not revocations.cover(("token:1", "account:ci"), now_us + 1)
    assert revocations.cover(("credential:key",), now_us + 10**12)
    # What the database forgets is forgotten here too, sooner or later.
    assert broken.forget_revocations(now_us + 10**12) == 1
    monotonic.now += 1.0
    assert revocations.cover(("account:ci",), now_us)
    monotonic.now += 600.0
    assert not revocations.cover(("account:ci",), now_us)
    assert revocations.cover(("credential:key",), now_us)


def test_calls_go_on_for_a_while_when_revocations_cannot_be_looked_at(broken: Any) -> None:
    monotonic = Clock(0.0)
    revocations = Revocations(broken, Clock(), monotonic)
    broken.away = True
    with pytest.raises(Failure, match="busy"):
        revocations.cover(("token:1",), 1)
    broken.away = False
    monotonic.now += 1.0
    assert not revocations.cover(("token:1",), 1)
    broken.away = True
    monotonic.now += 10.0
    assert not revocations.cover(("token:1",), 1)
    monotonic.now += 10.0
    with pytest.raises(Failure, match="busy"):
        revocations.cover(("token:1",), 1)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, False),
        ({"listen": "0.0.0.0:1"}, True),
        ({"tls_listen": "[::]:1"}, True),
        ({"listen": "0.0.0.0:1", "expose_unauthenticated": True}, False),
        ({"listen": "0.0.0.0:1", "auth_mode": "iam"}, False),
    ],
)
def test_strangers_reach_nothing_unless_they_are_asked_who_they_are(
    settings: dict[str, Any], refused: bool
) -> None:
    chosen = Settings(**settings)
    if not refused:
        return chosen.check_exposure(chosen.listen, chosen.tls_listen)
    with pytest.raises(SettingError, match=r"--auth-mode.*--expose-unauthenticated"):
        chosen.check_exposure(chosen.listen, chosen.tls_listen)
    return None


def test_a_token_lives_twelve_hours_at_most() -> None:
    with pytest.raises(SettingError, match="DARKROOM_TOKEN_LIFETIME: must be at most 43200"):
        load(environment={"DARKROOM_TOKEN_LIFETIME": "43201"})


def test_payloads_hold_no_more_than_they_need() -> None:
    tokens = Tokens(KEYRING.sign, KEYRING.verify, Clock())
    payload = tokens.issue("ci")[0].split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(payload + "==")).keys() == {
        *("exp", "iat", "jti", "sub"),
    }
