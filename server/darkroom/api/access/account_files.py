"""Files of the access folder that `darkroom account` writes: one for each account."""

import base64
import datetime
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from darkroom.api.access.directory import Account, Directory, digest, files, read
from darkroom.api.following import replace_file
from darkroom.api.roles import ROLES
from darkroom.domain.access import SERVICE_ACCOUNT, USER_ACCOUNT
from darkroom.domain.ids import new_id

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""As names of service accounts in the cloud."""
_ID_PREFIX = "aje"
"""Ids of service accounts and of their keys begin with it (cloud docs)."""
_HEAD = "# Written by `darkroom account`, which replaces it whole.\n"
_KEY_BITS = 2048
_SECTIONS = {"service_accounts": SERVICE_ACCOUNT, "users": USER_ACCOUNT}
_PRIVATE = 0o600
_PRIVATE_FOLDER = 0o700


class AccountError(ValueError):
    """What was asked for cannot be done; the text says why."""


def now_text() -> str:
    """As the SDKs' key files have it: RFC 3339, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class NewKey:
    """A key that was just made: its public half for us, all of it for its account, once."""

    entry: dict[str, str]
    file: dict[str, str]
    """The authorized key as the official SDKs, Terraform and yc take it."""


def make_key(account_id: str) -> NewKey:
    """A fresh RSA key of an account."""
    key = rsa.generate_private_key(65537, _KEY_BITS)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    public = (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    key_id, created_at = new_id(_ID_PREFIX), now_text()
    return NewKey(
        {"id": key_id, "created_at": created_at, "public_key": public},
        {
            "id": key_id,
            "service_account_id": account_id,
            "created_at": created_at,
            "key_algorithm": f"RSA_{_KEY_BITS}",
            "public_key": public,
            "private_key": private,
        },
    )


def make_token() -> str:
    """A static token of a user; looks like an OAuth token, so that clients exchange it."""
    return "y0_" + base64.urlsafe_b64encode(secrets.token_bytes(33)).decode()


class AccountFiles:
    """The accounts of one access folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def directory(self) -> Directory:
        """All of it, whoever wrote it. Raises `DirectoryError`."""
        return read(self._folder)

    def found(self, name: str) -> Account:
        """The account with this name or id. Raises `AccountError`."""
        for account in self.directory().accounts.values():
            if name in (account.id, account.name):
                return account
        raise AccountError(f"there is no account {name}")

    def create(
        self, name: str, roles: Sequence[str], folder_ids: Sequence[str], *, user: bool
    ) -> tuple[str, dict[str, str] | str]:
        """Write a new account; its id, and its key or, of a user, its token.

        The roles hold on the folders, or, if none is named, on the cloud. Raises `AccountError`.
        """
        if not _NAME.fullmatch(name):
            raise AccountError("a name is 1 to 63 of a-z, 0-9 and -, and begins with a letter")
        if unknown := [role for role in roles if role not in ROLES]:
            raise AccountError(f"{unknown[0]} is no role; known are {', '.join(ROLES)}")
        path = self._folder / f"{name}.yaml"
        known = self.directory().accounts.values()
        if path.exists() or name in {each for one in known for each in (one.id, one.name)}:
            raise AccountError(f"there is an account {name} already")
        account_id = new_id(_ID_PREFIX)
        secret: dict[str, str] | str
        account: dict[str, Any] = {"id": account_id, "name": name}
        if user:
            secret = make_token()
            account["tokens"] = [{"sha256": digest(secret), "created_at": now_text()}]
            section, account_type = "users", USER_ACCOUNT
        else:
            key = make_key(account_id)
            secret = key.file
            account["keys"] = [key.entry]
            section, account_type = "service_accounts", SERVICE_ACCOUNT
        place = {"folders": list(folder_ids)} if folder_ids else {"cloud": True}
        subject = f"{account_type}:{account_id}"
        document = {
            section: [account],
            "roles": [{"role": role, "subjects": [subject], **place} for role in roles],
        }
        self._write(path, document)
        return account_id, secret

    def create_key(self, account: Account) -> dict[str, str] | str:
        """One more key or token for an account. Raises `AccountError`."""
        path, document, entry = self._own(account)
        secret: dict[str, str] | str
        if account.type == USER_ACCOUNT:
            secret = make_token()
            made = {"sha256": digest(secret), "created_at": now_text()}
            entry.setdefault("tokens", []).append(made)
        else:
            key = make_key(account.id)
            secret = key.file
            entry.setdefault("keys", []).append(key.entry)
        self._write(path, document)
        return secret

    def delete_key(self, account: Account, credential_id: str) -> None:
        """Forget a key, or a token by its SHA-256. Raises `AccountError`."""
        path, document, entry = self._own(account)
        for kind, name in (("keys", "id"), ("tokens", "sha256")):
            if kind in entry:
                entry[kind] = [each for each in entry[kind] if each[name] != credential_id]
        self._write(path, document)

    def delete(self, account: Account) -> None:
        """Forget an account, its keys and its roles. Raises `AccountError`."""
        path, _, _ = self._own(account)
        path.unlink()

    def _own(self, account: Account) -> tuple[Path, dict[str, Any], dict[str, Any]]:
        """The file of an account that we wrote, what is in it, and the entry of the account."""
        for path in files(self._folder):
            text = path.read_text(encoding="utf-8")
            if not text.startswith(_HEAD):
                continue
            document = yaml.safe_load(text)
            for section in _SECTIONS:
                for entry in document.get(section, []):
                    if entry["id"] == account.id:
                        return path, document, entry
        raise AccountError(
            f"account {account.id} stands in a file that somebody else keeps: change it there"
        )

    def _write(self, path: Path, document: dict[str, Any]) -> None:
        self._folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        replace_file(path, (_HEAD + text).encode(), _PRIVATE)


class _Dumper(yaml.SafeDumper):
    """Writes keys as people read them: line by line."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
