"""`darkroom image export`: write an image's content to a file."""

import argparse
import shutil
import sys
from pathlib import Path

from darkroom import config, wiring
from darkroom.cli.command import Subparsers


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `image` and its subcommands to the command line."""
    image = subparsers.add_parser("image", help="work with images of this installation")
    actions = image.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write an image's content as a qcow2 file")
    export.add_argument("image_id", metavar="ID")
    export.add_argument("file", type=Path, metavar="FILE", help="made; must not exist yet")
    config.add_arguments(export, ("data_dir", "database_url", "content_url"))
    export.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export one image; 1 with a reason if there is nothing to export."""
    settings = config.load(arguments)
    store = wiring.open_store(settings)
    try:
        store.check_schema()
        image = store.get_image(arguments.image_id)
    finally:
        store.close()
    if image is None or image.content_id is None:
        state = "not found" if image is None else f"in status {image.status.name}"
        print(f'darkroom: Image "{arguments.image_id}" is {state}', file=sys.stderr)
        return 1
    with wiring.open_contents(settings).read_path(image.content_id) as path:
        try:
            with path.open("rb") as source, arguments.file.open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except FileExistsError:
            print(f"darkroom: {arguments.file} exists already", file=sys.stderr)
            return 1
    return 0
