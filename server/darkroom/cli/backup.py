"""`darkroom backup`: a consistent copy of an installation with the embedded defaults."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from darkroom import config, wiring
from darkroom.cli.command import Subparsers
from darkroom.upkeep.backup import Backup
from darkroom.upkeep.manifest import BackupError

SETTINGS = ("data_dir", "database_url", "content_url", "secret_key_file")


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `backup` to the command line."""
    parser = subparsers.add_parser(
        "backup",
        help="copy an installation, running or not, to a folder",
        description="For SQLite and local contents; docs/operations.md tells how to back up "
        "PostgreSQL and S3.",
        allow_abbrev=False,
    )
    parser.add_argument("target", type=Path, metavar="FOLDER", help="new, or empty")
    parser.add_argument(
        "--leave-out-secrets",
        action="store_true",
        help="do not copy the secret key and the keys of development certificates",
    )
    parser.add_argument(
        "--hard-links",
        action="store_true",
        help="link contents instead of copying them, on the same file system",
    )
    config.add_arguments(parser, SETTINGS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Back up; 1 with a reason if that is impossible, and no complete backup then."""
    settings = config.load(arguments)
    places = wiring.places(settings)
    wiring.open_existing_store(settings).close()
    try:
        backup = Backup(
            places,
            wiring.open_contents(settings),
            lambda target: wiring.snapshot(settings, target),
            lambda path: wiring.open_store(replace(settings, database_url=f"sqlite:{path}")),
            arguments.target,
        )
        manifest = backup.make(
            secrets=not arguments.leave_out_secrets, hard_links=arguments.hard_links
        )
    except BackupError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 1
    print(f"backed up: {manifest.contents} contents, {manifest.size_bytes} bytes in all")
    if manifest.secrets:
        print("the backup holds the secret key: keep it as safe as the installation")
    else:
        print(
            "the secret key is NOT in the backup: keep it elsewhere, or imports that are under way "
            "now will fail after a restore, and tokens will be refused"
        )
    return 0
