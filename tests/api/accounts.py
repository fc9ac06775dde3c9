"""Accounts of an access folder, and what they prove themselves with."""

import time
from pathlib import Path
from typing import Any

import jwt
import yaml

from darkroom.api.access.account_files import make_key, make_token
from darkroom.api.access.directory import digest

CLOUD = "cloud"
"""Stands for the whole cloud where roles are given."""

_KEYS: dict[str, dict[str, str]] = {}


def key_of(account_id: str) -> dict[str, str]:
    """The authorized key of a service account; made once, it takes a tenth of a second."""
    if account_id not in _KEYS:
        _KEYS[account_id] = make_key(account_id).file
    return _KEYS[account_id]


class Accounts:
    """One file in an access folder, written anew with each change."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "accounts.yaml"
        self._document: dict[str, list[Any]] = {
            "service_accounts": [],
            "users": [],
            "groups": [],
            "roles": [],
        }

    def write(self) -> None:
        fresh = self.path.with_suffix(".fresh")
        fresh.write_text(yaml.safe_dump(self._document))
        fresh.replace(self.path)

    def service_account(self, account_id: str) -> dict[str, str]:
        """A service account with one key; the key."""
        key = key_of(account_id)
        entry = {"id": key["id"], "public_key": key["public_key"]}
        self._document["service_accounts"].append({"id": account_id, "keys": [entry]})
        self.write()
        return key

    def user(self, account_id: str) -> str:
        """A user with a static token; the token."""
        token = make_token()
        tokens = [{"sha256": digest(token)}]
        self._document["users"].append({"id": account_id, "tokens": tokens})
        self.write()
        return token

    def group(self, group_id: str, *members: str) -> None:
        self._document["groups"].append({"id": group_id, "members": list(members)})
        self.write()

    def grant(self, role: str, place: str, *subjects: str) -> None:
        """A role on a folder, or on the cloud."""
        where: dict[str, Any] = {"cloud": True} if place == CLOUD else {"folders": [place]}
        self._document["roles"].append({"role": role, "subjects": list(subjects), **where})
        self.write()

    def drop(self, section: str, entry_id: str) -> None:
        """Remove an account or a group."""
        entries = self._document[section]
        self._document[section] = [each for each in entries if each["id"] != entry_id]
        self.write()

    def revoke_roles(self) -> None:
        self._document["roles"] = []
        self.write()


def signed(key: dict[str, str], **changes: Any) -> str:
    """A JWT as the SDKs make it, with claims or headers (`kid`, `alg`) changed; None drops one."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": key["service_account_id"],
        "aud": "https://iam.api.cloud.yandex.net/iam/v1/tokens",
        "iat": now,
        "exp": now + 3600,
    }
    headers: dict[str, Any] = {"kid": key["id"]}
    algorithm = changes.pop("alg", "PS256")
    private_key: Any = changes.pop("signer", key["private_key"])
    for name, value in changes.items():
        (headers if name == "kid" else claims)[name] = value
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None},
        private_key,
        algorithm=algorithm,
        headers={name: value for name, value in headers.items() if value is not None},
    )
