"""Secrets at rest."""

import base64
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.storage.sealing import ForeignKeyFile, Keyring, KeyUnknown, announce
from darkroom.storage.sqlite import SqliteStore

URL = "https://storage.yandexcloud.net/b/o?X-Amz-Signature=0123456789abcdef"


def test_a_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    sealed = Keyring.load_or_create(path).seal("op", URL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Keyring.load_or_create(path).open("op", sealed) == URL
    assert list(tmp_path.iterdir()) == [path]


def test_the_sealed_text_shows_nothing_and_differs_each_time(tmp_path: Path) -> None:
    keyring = Keyring.load_or_create(tmp_path / "secret.key")
    first, second = keyring.seal("op", URL), keyring.seal("op", URL)
    assert first != second
    for sealed in (first, second):
        raw = base64.b64decode(sealed.partition(".")[2])
        assert b"Signature" not in raw and "Signature" not in sealed


def test_a_secret_is_bound_to_its_operation(tmp_path: Path) -> None:
    keyring = Keyring.load_or_create(tmp_path / "secret.key")
    with pytest.raises(KeyUnknown):
        keyring.open("another operation", keyring.seal("op", URL))


def test_old_keys_still_open_and_the_first_one_seals() -> None:
    old, new = os.urandom(32), os.urandom(32)
    sealed_before = Keyring([old]).seal("op", URL)
    rotated = Keyring([new, old])
    assert rotated.open("op", sealed_before) == URL
    assert Keyring([new]).open("op", rotated.seal("op", URL)) == URL
    with pytest.raises(KeyUnknown):
        Keyring([new]).open("op", sealed_before)


@pytest.mark.parametrize(
    "text", ["", "\n", "short\n", "%%%\n", "\xff\xfe", base64.b64encode(b"x" * 31).decode()]
)
def test_a_file_that_is_no_key_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret.key"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="the secret key file"):
        Keyring.load_or_create(path)
    assert path.read_text(encoding="latin-1") == text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore(tmp_path / "metadata.sqlite")) as opened:
        opened.migrate()
        yield opened


def test_an_installation_keeps_its_key_until_it_is_given_up(store: SqliteStore) -> None:
    old, new = bytes(32), bytes([1] * 32)
    first, rotated, foreign = Keyring([old]), Keyring([new, old]), Keyring([bytes([2] * 32)])
    announce(first, store, replace=False)
    assert store.secret_key() == first.key_ids[0]
    with pytest.raises(ForeignKeyFile, match="--new-secret-key"):
        announce(foreign, store, replace=False)
    assert store.secret_key() == first.key_ids[0]
    announce(rotated, store, replace=False)
    assert store.secret_key() == rotated.key_ids[0] != first.key_ids[0]
    # Who has not heard of the new key does not take the old one up again.
    with pytest.raises(ForeignKeyFile):
        announce(first, store, replace=False)
    announce(foreign, store, replace=True)
    assert store.secret_key() == foreign.key_ids[0]
