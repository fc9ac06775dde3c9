"""`darkroom migrate`: bring the database schema up to date."""

import argparse

from darkroom import config, wiring
from darkroom.cli.command import Subparsers


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `migrate` to the command line."""
    parser = subparsers.add_parser("migrate", help="bring the schema up to date")
    config.add_arguments(parser, ("data_dir", "database_url"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Migrate and print the version. Raises `OSError` if the database cannot be used."""
    store = wiring.open_store(config.load(arguments))
    try:
        print(f"schema version {store.migrate()}")
    finally:
        store.close()
    return 0
