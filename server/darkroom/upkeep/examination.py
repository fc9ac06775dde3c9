"""Looks for whatever must not be in an installation, running or not, and mends what is safe.

Rows, contents and scratch folders change while they are looked at. What is found between them is
therefore a suspicion until it has stood for a while: a file whose row is being deleted, a lease
whose next heartbeat is due. What contradicts the invariants of rows alone needs no such patience.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from darkroom.domain.content import Content
from darkroom.domain.finding import Finding
from darkroom.domain.operation import State, Unfinished
from darkroom.imaging.contents import ContentStore
from darkroom.imaging.soundness import sha256_of, tables_are_sound
from darkroom.storage.port import MetadataStore
from darkroom.worker.collector import abandoned_scratch, orphaned_contents

_PAGE = 500
_FIRST_PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class Depth:
    """How closely contents are looked at."""

    checksums: bool = False
    """Read every content and compare it with the digest in its row."""
    tables: bool = False
    """Have `qemu-img check` follow the tables of every content."""


@dataclass(frozen=True)
class _Suspect:
    """A finding and what makes two sightings of it the same."""

    finding: Finding
    mark: tuple[object, ...]
    mend: Callable[[], bool]


class Examination:
    """One examination. `findings` first, then `mend` for those that are to be mended."""

    def __init__(
        self,
        store: MetadataStore,
        contents: ContentStore,
        scratch: Path,
        *,
        opens: Callable[[str, str], bool],
        patience_seconds: float,
        depth: Depth | None = None,
    ) -> None:
        """`scratch` is this machine's, it need not exist.

        `opens` tells whether the secret of an operation, by its id and as it is kept, can be read.
        """
        self._store = store
        self._contents = contents
        self._scratch = scratch
        self._opens = opens
        self._patience_seconds = patience_seconds
        self._depth = depth or Depth()
        self._suspects: dict[tuple[str, str], _Suspect] = {}
        self._rows_lost = False
        self.contents_checked = 0

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong, as it is found. Raises `Failure` if the database is away."""
        damage = [Finding("database-damaged", "database", text) for text in self._store.damage()]
        if damage:
            yield from damage  # and nothing that is read from it can be trusted
            return
        for finding in self._store.violations():
            self._rows_lost |= finding.check == "resource-content"
            yield finding
        yield from self._secrets()
        suspects = self._sighted()
        yield from self._content_rows()
        yield from self._lasting(suspects)

    def mend(self, finding: Finding) -> bool:
        """Set one of the findings right; False if it is right by now, or changed meanwhile."""
        suspect = self._suspects.get((finding.check, finding.subject))
        return suspect.mend() if suspect is not None else self._store.mend(finding)

    # --- rows and what they stand for -------------------------------------------------------------

    def _secrets(self) -> Iterator[Finding]:
        for operation in self._store.unfinished():
            if operation.sealed and not self._opens(operation.id, operation.sealed):
                text = "has a secret that was sealed with a key which is not in the key file"
                yield Finding("operation-sealed", operation.id, text)

    def _content_rows(self) -> Iterator[Finding]:
        after = ""
        while page := self._store.contents(after, _PAGE):
            after = page[-1].id
            for content in page:
                self.contents_checked += 1
                yield from self._content(content)

    def _content(self, content: Content) -> Iterator[Finding]:
        try:
            problem = self._problem(content)
        except OSError:
            if self._store.contents_in_use([content.id]):
                raise
            return  # deleted while it was read
        # Its row was there before and the file is deleted after the row: if the row is still
        # there, the file should have been.
        if problem and self._store.contents_in_use([content.id]):
            check, text = problem
            yield Finding(check, content.id, text)

    def _problem(self, content: Content) -> tuple[str, str] | None:
        """Name of the check that fails and what is wrong, if anything is."""
        wanted = self._depth
        try:
            size_bytes = self._contents.size_bytes(content.id)
            if size_bytes != content.stored_size_bytes:
                text = f"has {size_bytes} bytes, its row says {content.stored_size_bytes}"
                return "content-size", text
            if wanted.checksums or wanted.tables:
                with self._contents.open(content.id) as file:
                    # Only bytes of our own making are shown to qemu-img.
                    if sha256_of(file) != content.sha256:
                        return "content-damaged", "has other bytes than were stored"
                    if wanted.tables and not tables_are_sound(file, self._scratch):
                        return "content-tables", "has tables that contradict each other"
        except FileNotFoundError:
            return "content-missing", "has a row but no file"
        return None

    # --- what has to last to be wrong -------------------------------------------------------------

    def _sighted(self) -> dict[tuple[str, str], _Suspect]:
        """All suspects of this moment, by check and subject."""
        return {
            (suspect.finding.check, suspect.finding.subject): suspect
            for suspect in (*self._leases(), *self._orphans(), *self._abandoned())
        }

    def _lasting(self, suspects: dict[tuple[str, str], _Suspect]) -> Iterator[Finding]:
        """Those suspects that stay as they are until patience ends."""
        deadline = time.monotonic() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while suspects and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause *= 2
            now = self._sighted()
            suspects = {
                key: suspect
                for key, suspect in suspects.items()
                if key in now and now[key].mark == suspect.mark
            }
        self._suspects = suspects
        for suspect in suspects.values():
            yield suspect.finding

    def _leases(self) -> Iterator[_Suspect]:
        for seen in self._store.unfinished():
            if seen.state is State.RUNNING:
                text = (
                    f"is leased by {seen.owner}, which shows no sign of life, "
                    "and nobody has taken it over"
                )
                yield _Suspect(
                    Finding("lease-expired", seen.id, text, can_mend=True),
                    (seen.owner, seen.fence, seen.beat),
                    self._taking_back(seen),
                )

    def _taking_back(self, seen: Unfinished) -> Callable[[], bool]:
        return lambda: self._store.take_back(seen)

    def _orphans(self) -> Iterator[_Suspect]:
        for name in orphaned_contents(self._store, self._contents):
            text = "takes room, but no row knows it and no attempt is making it"
            # It may be the very file whose row is lost: that is all there is to repair it with.
            finding = Finding("content-orphaned", name, text, can_mend=not self._rows_lost)
            yield _Suspect(finding, (), self._deleting(name))

    def _deleting(self, name: str) -> Callable[[], bool]:
        def delete() -> bool:
            self._contents.delete(name)
            return True

        return delete

    def _abandoned(self) -> Iterator[_Suspect]:
        if not self._scratch.is_dir():
            return
        for name in abandoned_scratch(self._store, self._scratch):
            text = "is left in the scratch folder, its attempt is over"
            finding = Finding("scratch-abandoned", name, text, can_mend=True)
            yield _Suspect(finding, (), self._clearing(self._scratch / name))

    def _clearing(self, folder: Path) -> Callable[[], bool]:
        def clear() -> bool:
            shutil.rmtree(folder, ignore_errors=True)
            return not folder.exists()

        return clear
