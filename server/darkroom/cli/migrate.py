"""`darkroom migrate`: bring the database schema up to date."""

import argparse

from darkroom import config, wiring
from darkroom.cli.command import Subparsers


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `migrate` to the command line."""
    parser = subparsers.add_parser("migrate", help="bring the schema up to date")
    config.add_arguments(parser, ("data_dir", "database_url", "secret_key_file"))
    parser.add_argument(
        "--new-secret-key",
        action="store_true",
        help="use the keys of the secret key file from now on: the ones before are lost",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Migrate and print the version. Raises `OSError` if the database cannot be used."""
    settings = config.load(arguments)
    store = wiring.open_store(settings)
    try:
        print(f"schema version {store.migrate()}")
        if arguments.new_secret_key:
            wiring.replace_secret_key(settings, store)
    finally:
        store.close()
    return 0
