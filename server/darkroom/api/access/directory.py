"""Accounts, groups and roles: a folder of YAML files, kept by the operator and by
`darkroom account`.

Every `*.yaml` of the folder has any of the sections below; together they are one directory. Names
of groups and accounts hold across files, so an account may have a file of its own.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from darkroom.api.following import Stamp, stamp
from darkroom.api.roles import ROLES
from darkroom.config import is_loopback
from darkroom.domain.access import (
    GROUP,
    SERVICE_ACCOUNT,
    SUBJECT_TYPES,
    SYSTEM,
    USER_ACCOUNT,
    AccessBinding,
)

MIN_KEY_BITS = 2048
DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256")
_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Those with a public key; whoever could check another one could also sign."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:/+-]{0,49}")
"""At most 50 characters, as all ids of the cloud (cloud docs)."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_FILE_BYTES = 4 * 1024 * 1024
_MAX_FAULTS = 20


class DirectoryError(ValueError):
    """The files cannot be used; the text names file, entry and field."""


@dataclass(frozen=True)
class Key:
    """The public half of a service account's key."""

    id: str
    account_id: str
    public_key: RSAPublicKey


@dataclass(frozen=True)
class Account:
    """A service account or a user."""

    id: str
    type: str
    name: str


@dataclass(frozen=True)
class Grant:
    """A role for subjects, on the cloud and so on everything, or on some folders."""

    role: str
    subjects: tuple[tuple[str, str], ...]
    """Type and id of each."""
    cloud: bool = False
    folder_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Issuer:
    """An OpenID Connect issuer whose tokens are taken."""

    url: str
    """As its tokens have it in `iss`."""
    audiences: tuple[str, ...]
    """A token must be meant for one of them."""
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    keys_url: str = ""
    """Empty: what its discovery document says."""
    subject_claim: str = "sub"
    groups_claim: str = ""
    prefix: str = ""
    """What ids of its subjects and groups begin with here."""
    ca_file: str = ""


@dataclass(frozen=True)
class Directory:
    """All files together."""

    accounts: Mapping[str, Account] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Which account has a static token, by the SHA-256 of the token in hexadecimal."""
    groups_of: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Ids of the groups of each member, a member being type and id."""
    grants: tuple[Grant, ...] = ()
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    """By URL."""

    def credential_of(self, account_id: str, credential_id: str) -> bool:
        """Whether the account still has a key or a static token by this id."""
        key = self.keys.get(credential_id)
        owner = key.account_id if key is not None else self.tokens.get(credential_id)
        return owner == account_id


def digest(token: str) -> str:
    """What a file keeps of a static token: it is long and random, so no salt is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def files(folder: Path) -> list[Path]:
    """The files of a directory; none if the folder is not there."""
    if not folder.is_dir():
        return []
    # Kubernetes mounts keep what they swap in entries that begin with dots.
    found = (path for path in folder.glob("*.yaml") if not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def stamp_of(folder: Path) -> Stamp:
    """What differs once a file of the directory was changed, made or removed."""
    return stamp(*files(folder))


def read(folder: Path) -> Directory:
    """All files of the folder. Raises `DirectoryError` with every fault, or `OSError`."""
    reader = _Reader()
    for path in files(folder):
        reader.file(path)
    return reader.directory()


def problem_with_binding(binding: AccessBinding) -> str:
    """What would keep an access binding from ever meaning anything; empty if nothing."""
    if binding.role_id not in ROLES:
        return f"role {binding.role_id} is not known; known are {', '.join(ROLES)}"
    return _problem_with_subject(binding.subject_type, binding.subject_id)


def _problem_with_subject(subject_type: str, subject_id: str) -> str:
    if subject_type not in SUBJECT_TYPES:
        return f"type {subject_type} is not one of {', '.join(SUBJECT_TYPES)}"
    if subject_type == SYSTEM and not re.fullmatch(
        "allUsers|allAuthenticatedUsers|group:organization:[^:]+:users", subject_id
    ):
        return (
            "a subject of type system is allUsers, allAuthenticatedUsers or "
            "group:organization:ID:users"
        )
    return "" if subject_id else "a subject has an id"


# --- values ---------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not (isinstance(value, str) and value):
        raise ValueError("must be text; put it in quotes")
    return value


def _id(value: object) -> str:
    if not _ID.fullmatch(_text(value)):
        raise ValueError("must be an id: at most 50 letters, digits and . _ - @ : / +")
    return _text(value)


def _role(value: object) -> str:
    if _text(value) not in ROLES:
        raise ValueError(f"is no role; known are {', '.join(ROLES)}")
    return _text(value)


def _sha256(value: object) -> str:
    if not _DIGEST.fullmatch(_text(value)):
        raise ValueError("must be the SHA-256 of the token, 64 hexadecimal digits")
    return _text(value)


def _true(value: object) -> bool:
    if value is not True:
        raise ValueError("can only be true; leave it out otherwise")
    return True


def _subject(value: object) -> tuple[str, str]:
    """`type:id`, split at the first colon, as Terraform's members are."""
    subject_type, _, subject_id = _text(value).partition(":")
    problem = _problem_with_subject(subject_type, subject_id)
    if problem:
        raise ValueError(f"must be TYPE:ID, and {problem}")
    return subject_type, subject_id


def _member(value: object) -> tuple[str, str]:
    subject = _subject(value)
    if subject[0] in (GROUP, SYSTEM):
        raise ValueError("members are users and service accounts")
    return subject


def public_key(value: object) -> RSAPublicKey:
    """A key from PEM text. Raises `ValueError` for one that is none or too short."""
    try:
        key = serialization.load_pem_public_key(_text(value).encode())
    except ValueError:
        raise ValueError("must be a public key in PEM") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < MIN_KEY_BITS:
        raise ValueError(f"must be an RSA key of at least {MIN_KEY_BITS} bits")
    return key


def check_issuer_url(text: str) -> None:
    """Raise `ValueError` unless keys may be fetched from there; loopback is for tests."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("must be a URL") from None
    plain = parts.scheme == "http" and is_loopback(f"{host}:0")
    if not host or not (parts.scheme == "https" or plain) or parts.username or parts.fragment:
        raise ValueError("must be https://HOST/PATH")


def _url(value: object) -> str:
    check_issuer_url(_text(value))
    return _text(value)


def _algorithm(value: object) -> str:
    if value not in _ALGORITHMS:
        raise ValueError(f"must be one of {', '.join(_ALGORITHMS)}")
    return _text(value)


def _filled_list(of: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    def parse(value: object) -> tuple[Any, ...]:
        if not value:
            raise ValueError("must not be empty")
        return _list(of)(value)

    return parse


def _list(of: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    def parse(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("must be a list")
        parsed = []
        for number, each in enumerate(value):
            try:
                parsed.append(of(each))
            except ValueError as error:
                raise ValueError(f"[{number}] {error}") from None
        return tuple(parsed)

    return parse


def _entry(
    required: Mapping[str, Callable[[object], Any]],
    optional: Mapping[str, Callable[[object], Any]] | None = None,
) -> Callable[[object], dict[str, Any]]:
    """A mapping with these fields and no other."""
    known = {**required, **(optional or {})}

    def parse(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be a mapping")
        parsed = {}
        for name, each in value.items():
            if name not in known:
                raise ValueError(f"{name}: unknown; known are {', '.join(known)}")
            try:
                parsed[name] = known[name](each)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        missing = [name for name in required if name not in parsed]
        if missing:
            raise ValueError(f"{missing[0]}: is missing")
        return parsed

    return parse


_SECTIONS: dict[str, Callable[[object], dict[str, Any]]] = {
    "service_accounts": _entry(
        {"id": _id},
        {
            "name": _text,
            "keys": _list(_entry({"id": _id, "public_key": public_key}, {"created_at": _text})),
        },
    ),
    "users": _entry(
        {"id": _id},
        {"name": _text, "tokens": _list(_entry({"sha256": _sha256}, {"created_at": _text}))},
    ),
    "groups": _entry({"id": _id, "members": _list(_member)}, {"name": _text}),
    "roles": _entry(
        {"role": _role, "subjects": _list(_subject)},
        {"cloud": _true, "folders": _list(_text)},
    ),
    "issuers": _entry(
        {"url": _url, "audiences": _filled_list(_text)},
        {
            "algorithms": _filled_list(_algorithm),
            "keys_url": _url,
            "subject_claim": _text,
            "groups_claim": _text,
            "prefix": _text,
            "ca_file": _text,
        },
    ),
}


class _Reader:
    """Reads file after file and remembers what is wrong with them."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._keys: dict[str, Key] = {}
        self._tokens: dict[str, str] = {}
        self._groups: set[str] = set()
        self._groups_of: dict[tuple[str, str], tuple[str, ...]] = {}
        self._grants: list[Grant] = []
        self._issuers: dict[str, Issuer] = {}
        self._faults: list[str] = []

    def directory(self) -> Directory:
        """What the files say. Raises `DirectoryError`."""
        if self._faults:
            shown = self._faults[:_MAX_FAULTS]
            raise DirectoryError("\n  ".join(["the access files have faults:", *shown]))
        return Directory(
            self._accounts,
            self._keys,
            self._tokens,
            self._groups_of,
            tuple(self._grants),
            self._issuers,
        )

    def file(self, path: Path) -> None:
        if path.stat().st_size > _MAX_FILE_BYTES:
            self._faults.append(f"{path.name}: has more than {_MAX_FILE_BYTES} bytes")
            return
        try:
            document = yaml.load(path.read_bytes(), _LOADER)  # noqa: S506 - a safe one
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            place = f", line {mark.line + 1}" if mark is not None else ""
            self._faults.append(f"{path.name}{place}: is not YAML")
            return
        if document is None:
            return
        if not isinstance(document, dict):
            self._faults.append(f"{path.name}: must hold a mapping")
            return
        for section, entries in document.items():
            if section not in _SECTIONS or not isinstance(entries, list):
                known = ", ".join(_SECTIONS)
                self._faults.append(f"{path.name}: {section}: must be a list, one of {known}")
                continue
            for number, entry in enumerate(entries):
                try:
                    self._take(str(section), _SECTIONS[section](entry))
                except ValueError as error:
                    self._faults.append(f"{path.name}: {section}[{number}]: {error}")

    def _take(self, section: str, values: dict[str, Any]) -> None:
        match section:
            case "service_accounts":
                self._take_account(SERVICE_ACCOUNT, values)
            case "users":
                self._take_account(USER_ACCOUNT, values)
            case "groups":
                _unused(values["id"], self._groups)
                self._groups.add(values["id"])
                for member in dict.fromkeys(values["members"]):
                    self._groups_of[member] = (*self._groups_of.get(member, ()), values["id"])
            case "issuers":
                self._take_issuer(Issuer(**values))
            case _:
                if ("cloud" in values) == bool(values.get("folders")):
                    raise ValueError("must have either `cloud: true` or a list of `folders`")
                self._grants.append(
                    Grant(
                        values["role"],
                        values["subjects"],
                        "cloud" in values,
                        values.get("folders", ()),
                    )
                )

    def _take_issuer(self, issuer: Issuer) -> None:
        _unused(issuer.url, self._issuers)
        for other in self._issuers.values():
            # Or one of them could call its users as the other one does.
            if issuer.prefix.startswith(other.prefix) or other.prefix.startswith(issuer.prefix):
                raise ValueError("must have a prefix, and none that another issuer's begins with")
        self._issuers[issuer.url] = issuer

    def _take_account(self, account_type: str, values: dict[str, Any]) -> None:
        account_id = values["id"]
        # Operations and idempotency keys know their subject by its id alone.
        _unused(account_id, self._accounts)
        keys, tokens = values.get("keys", ()), values.get("tokens", ())
        for key in keys:
            _unused(key["id"], self._keys)
        for token in tokens:
            _unused(token["sha256"], self._tokens)
        name = values.get("name", account_id)
        self._accounts[account_id] = Account(account_id, account_type, name)
        for key in keys:
            self._keys[key["id"]] = Key(key["id"], account_id, key["public_key"])
        self._tokens.update({token["sha256"]: account_id for token in tokens})


def _unused(name: str, names: Iterable[str]) -> None:
    if name in names:
        raise ValueError(f"there is another entry {name}")


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
