"""Makes an installation from a backup, in an empty place."""

from pathlib import Path

from darkroom.imaging.room import sync
from darkroom.telemetry.failpoints import failpoint
from darkroom.upkeep.manifest import (
    ACCESS,
    CERTIFICATES,
    CONTENT_FILE,
    CONTENTS,
    METADATA,
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    SECRET_KEY,
    BackupError,
    Copied,
    Manifest,
    Places,
    copy,
    empty_folder,
    made,
)


def restore(backup: Path, places: Places, mark: Path) -> Manifest:
    """Copy a backup to its places, none of which may hold anything yet.

    Every file is compared with its checksum. `mark` stands from the first step to the last:
    while it does, nothing may be started here. A key file outside of the data folder may be
    there already, if it is the backup's. Raises `BackupError`, `OSError`.
    """
    manifest = Manifest.read(backup)
    if places.metadata.exists():
        raise BackupError(f"{places.metadata} exists: restore to a place without an installation")
    empty_folder(places.data)
    empty_folder(places.contents)
    places.metadata.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    with made(mark, PRIVATE_FILE):
        pass
    sync(places.data)
    # The database comes last: without it there is no installation.
    for name in sorted(manifest.files, key=lambda each: (each == METADATA, each)):
        _copy_file(backup / name, _place(name, places), manifest.files[name])
        failpoint("restore.file")
    for folder in {places.contents, places.metadata.parent, places.data}:
        sync(folder)
    mark.unlink()
    sync(places.data)
    return manifest


def _place(name: str, places: Places) -> Path:
    folder, _, base = name.rpartition("/")
    below = {
        CONTENTS: places.contents,
        CERTIFICATES: places.certificates,
        ACCESS: places.access,
    }
    alone = {METADATA: places.metadata, SECRET_KEY: places.secret_key}
    place = below[folder] / base if folder in below else alone.get(name)
    if place is None:
        raise BackupError(f"the backup holds {name}, which this version does not know")
    return place


def _copy_file(source: Path, target: Path, wanted: Copied) -> None:
    target.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    mode = CONTENT_FILE if source.parent.name == CONTENTS else PRIVATE_FILE
    try:
        with source.open("rb") as file, made(target, mode) as out:
            copied = copy(file, out)
    except FileExistsError:
        if source.read_bytes() == target.read_bytes():
            return
        raise BackupError(f"{target} exists and is not the backup's") from None
    except FileNotFoundError:
        raise BackupError(f"the backup is damaged: {source.name} is missing") from None
    if copied != wanted:
        raise BackupError(f"the backup is damaged: {source.name} has other bytes than it had")
