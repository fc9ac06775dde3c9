"""`darkroom account`: accounts for `--auth-mode iam`, their keys and tokens."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from darkroom import config, wiring
from darkroom.api.access.account_files import AccountError, AccountFiles
from darkroom.api.access.directory import digest
from darkroom.api.access.iam import account_mark, credential_mark
from darkroom.api.access.modes import issuer
from darkroom.api.access.revocations import revoke
from darkroom.cli.command import Subparsers
from darkroom.config import Settings
from darkroom.domain.audit import OPERATOR, AuditEntry
from darkroom.domain.ids import new_id
from darkroom.storage.port import Transaction

_SETTINGS = ("data_dir", "database_url", "secret_key_file", "access_dir", "token_lifetime")


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `account` and its actions to the command line."""
    parser = subparsers.add_parser("account", help="accounts, their keys, roles and tokens")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help_text: str, *, named: bool = True) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=help_text, allow_abbrev=False)
        if named:
            added.add_argument("account", metavar="NAME", help="name or id of the account")
        config.add_arguments(added, _SETTINGS)
        added.set_defaults(run=run)
        return added

    create = action("create", "make a service account and print its key, or a user and a token")
    create.add_argument("--user", action="store_true", help="a user, who gets a static token")
    create.add_argument(
        "--role", action="append", default=[], metavar="ROLE", help="what it may do; repeatable"
    )
    create.add_argument(
        "--on-folder",
        action="append",
        default=[],
        metavar="ID",
        help="folder on which the roles hold; repeatable [default: all of them]",
    )
    for each in (create, action("create-key", "one more key or, for a user, static token")):
        each.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="write the secret there, readable by its owner only [default: standard output]",
        )
    listing = action("list", "accounts, with their keys and roles", named=False)
    listing.add_argument("--json", action="store_true", help="print one JSON list instead")
    delete_key = action("delete-key", "end a key, or a static token, and what was issued for it")
    delete_key.add_argument("key", metavar="ID", help="id of the key, or SHA-256 of the token")
    action("delete", "end an account and everything that was issued for it")
    end_all = action("revoke", "end all tokens that were issued for an account until now")
    end_all.add_argument(
        "--federated",
        action="store_true",
        help="NAME is the id of a user of an issuer, which the access files do not know",
    )
    action("token", "print an IAM token of an account")


def run(arguments: argparse.Namespace) -> int:
    """0, or 1 with a reason. Raises `SettingError`, `OSError`, `Failure`."""
    settings = config.load(arguments)
    accounts = AccountFiles(settings.access_folder)
    try:
        _ACTIONS[arguments.action](arguments, settings, accounts)
    except ValueError as error:  # AccountError and DirectoryError among them
        print(f"darkroom: {error}", file=sys.stderr)
        return 1
    return 0


def _create(arguments: argparse.Namespace, settings: Settings, accounts: AccountFiles) -> None:
    _check_output(arguments.output)
    account_id, secret = accounts.create(
        arguments.account, arguments.role, arguments.on_folder, user=arguments.user
    )
    _record(settings, "account.create", account_id)
    print(f"account {account_id} made", file=sys.stderr)
    _hand_out(secret, arguments.output)


def _create_key(arguments: argparse.Namespace, settings: Settings, accounts: AccountFiles) -> None:
    _check_output(arguments.output)
    account = accounts.found(arguments.account)
    secret = accounts.create_key(account)
    credential_id = digest(secret) if isinstance(secret, str) else secret["id"]
    _record(settings, "account.create_key", account.id, credential_id)
    _hand_out(secret, arguments.output)


def _check_output(path: Path | None) -> None:
    if path is not None and path.exists():
        raise AccountError(f"{path} exists already")


def _hand_out(secret: dict[str, str] | str, path: Path | None) -> None:
    """The only time that the secret is seen."""
    text = secret if isinstance(secret, str) else json.dumps(secret, indent=2)
    if path is None:
        print(text)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def _list(arguments: argparse.Namespace, _settings: Settings, accounts: AccountFiles) -> None:
    directory = accounts.directory()
    found = []
    for account in directory.accounts.values():
        subject = (account.type, account.id)
        credentials = [key.id for key in directory.keys.values() if key.account_id == account.id]
        credentials += [each for each, owner in directory.tokens.items() if owner == account.id]
        roles = [
            f"{grant.role} on {'cloud' if grant.cloud else ' '.join(grant.folder_ids)}"
            for grant in directory.grants
            if subject in grant.subjects
        ]
        found.append(
            {
                "id": account.id,
                "type": account.type,
                "name": account.name,
                "keys": credentials,
                "groups": list(directory.groups_of.get(subject, ())),
                "roles": roles,
            }
        )
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for each in found:
        print(f"{each['id']}  {each['type']}  {each['name']}")
        for name in ("keys", "groups", "roles"):
            for value in each[name]:
                print(f"    {name.removesuffix('s')} {value}")


def _delete_key(arguments: argparse.Namespace, settings: Settings, accounts: AccountFiles) -> None:
    account = accounts.found(arguments.account)
    if not accounts.directory().credential_of(account.id, arguments.key):
        raise AccountError(f"account {account.id} has no key {arguments.key}")
    # First what is in force on every server at once, whoever keeps the file.
    marks = [credential_mark(arguments.key)]
    _record(settings, "account.delete_key", account.id, arguments.key, credentials=marks)
    accounts.delete_key(account, arguments.key)


def _delete(arguments: argparse.Namespace, settings: Settings, accounts: AccountFiles) -> None:
    account = accounts.found(arguments.account)
    directory = accounts.directory()
    marks = [
        credential_mark(key)
        for key in [*directory.keys, *directory.tokens]
        if directory.credential_of(account.id, key)
    ]
    ended = account_mark(account.id)
    _record(settings, "account.delete", account.id, credentials=marks, issued=ended)
    accounts.delete(account)


def _revoke_all(arguments: argparse.Namespace, settings: Settings, accounts: AccountFiles) -> None:
    account_id = arguments.account
    if not arguments.federated:
        account_id = accounts.found(account_id).id
    _record(settings, "account.revoke", account_id, issued=account_mark(account_id))


def _token(arguments: argparse.Namespace, settings: Settings, accounts: AccountFiles) -> None:
    account = accounts.found(arguments.account)
    token, _ = issuer(settings).issue(account.id)
    _record(settings, "account.token", account.id)
    print(token)


def _record(
    settings: Settings,
    action: str,
    *resource_ids: str,
    credentials: Sequence[str] = (),
    issued: str = "",
) -> None:
    """Write who did it into the audit log, an entry for each resource, and what it makes worthless.

    Before any secret is shown: nobody has one that the log knows nothing of.
    """
    try:
        store = wiring.open_existing_store(settings)
    except FileNotFoundError:
        return  # nothing was ever served, so nothing issued
    try:
        now_us = time.time_ns() // 1000

        def change(tx: Transaction) -> None:
            for mark in credentials:
                revoke(tx, mark, now_us, credential=True)
            if issued:
                revoke(tx, issued, now_us)
            entry = AuditEntry(now_us, OPERATOR, f"uid {os.getuid()}", action, "OK")
            for resource_id in resource_ids:
                tx.record(replace(entry, resource_id=resource_id, id=new_id()))

        store.write(change)
    finally:
        store.close()


_ACTIONS = {
    "create": _create,
    "create-key": _create_key,
    "list": _list,
    "delete-key": _delete_key,
    "delete": _delete,
    "revoke": _revoke_all,
    "token": _token,
}
