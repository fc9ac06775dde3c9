"""`darkroom restore`: make an installation from a backup."""

import argparse
import sys
from pathlib import Path

from darkroom import config, wiring
from darkroom.cli.backup import SETTINGS
from darkroom.cli.command import Subparsers
from darkroom.upkeep.manifest import BackupError
from darkroom.upkeep.restore import restore


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `restore` to the command line."""
    parser = subparsers.add_parser(
        "restore", help="make an installation from a backup", allow_abbrev=False
    )
    parser.add_argument("backup", type=Path, metavar="BACKUP", help="what `backup` made")
    config.add_arguments(parser, SETTINGS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Restore; 1 with a reason if that is impossible."""
    settings = config.load(arguments)
    try:
        places = wiring.places(settings)
        manifest = restore(arguments.backup, places, wiring.restore_mark(settings))
    except BackupError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 1
    print(f"restored: {manifest.contents} contents, {manifest.size_bytes} bytes in all")
    if not places.secret_key.exists():
        print(
            f"the backup has no secret key: put it at {places.secret_key} before the first start, "
            "or imports that were under way will fail, and tokens will be refused"
        )
    return 0
