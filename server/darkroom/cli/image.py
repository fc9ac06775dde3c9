"""`darkroom image export`: write what an image, disk or snapshot holds to a file."""

import argparse
import contextlib
import sys
from pathlib import Path

from darkroom import config, wiring
from darkroom.cli.command import Subparsers
from darkroom.domain.disk import Disk
from darkroom.domain.errors import Failure
from darkroom.domain.image import Image
from darkroom.domain.resource import Resource, Status
from darkroom.domain.snapshot import Snapshot
from darkroom.imaging.export import export
from darkroom.storage.port import MetadataStore


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `image` and its subcommands to the command line."""
    image = subparsers.add_parser("image", help="work with images of this installation")
    actions = image.add_subparsers(dest="action", metavar="ACTION", required=True)
    command = actions.add_parser(
        "export", help="write an image, or a disk or snapshot, as a qcow2 file of its full size"
    )
    command.add_argument("id", metavar="ID", help="of an image, a disk or a snapshot")
    command.add_argument("file", type=Path, metavar="FILE", help="made; must not exist yet")
    config.add_arguments(command, ("data_dir", "database_url", "content_url"))
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export one resource; 1 with a reason if that is impossible, and no file then."""
    settings = config.load(arguments)
    store = wiring.open_existing_store(settings)
    try:
        resource = _found(store, arguments.id)
        row = store.content(resource.content_id or "") if resource is not None else None
    finally:
        store.close()
    if resource is None:
        return _refused(f'no image, disk or snapshot "{arguments.id}" found')
    name = f'{resource.NOUN} "{resource.id}"'
    if resource.status is not Status.READY:
        return _refused(f"{name} is in status {resource.status.name}")
    with contextlib.ExitStack() as stack:
        try:
            content = None
            if resource.content_id is not None:
                contents = wiring.open_contents(settings)
                try:
                    content = stack.enter_context(contents.open(resource.content_id))
                except FileNotFoundError:
                    content = None
                if content is None or row is None:
                    return _refused(f"{name} has no content (any more)")
            sha256 = row.sha256 if row is not None else ""
            export(content, sha256, resource.size_bytes, arguments.file)
        except FileExistsError:
            return _refused(f"{arguments.file} exists already")
        except Failure as failure:
            return _refused(f"cannot export {name}: {failure.message}")
        except OSError as error:
            return _refused(f"cannot write {arguments.file}: {error.strerror or error}")
    return 0


def _found(store: MetadataStore, resource_id: str) -> Resource | None:
    kinds: tuple[type[Resource], ...] = (Image, Disk, Snapshot)
    found = (store.get(kind, resource_id) for kind in kinds)
    return next((resource for resource in found if resource is not None), None)


def _refused(reason: str) -> int:
    print(f"darkroom: {reason}", file=sys.stderr)
    return 1
