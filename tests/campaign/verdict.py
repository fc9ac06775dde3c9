"""Compares what is there after a campaign with what clients were told."""

import contextlib
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.client import Refused
from campaign.clients import Client
from campaign.fleet import Fleet
from campaign.journal import Journal, Picture
from darkroom import config, wiring
from darkroom.domain.image import Image
from darkroom.domain.operation import State
from darkroom.imaging.contents import ContentStore
from darkroom.storage.port import MetadataStore
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from installation import same_content

_DEFECTS = {
    *("operation raised", "worker's round failed", "heartbeat failed"),
    *("worker cannot be kept running", "readiness cannot be told"),
}
"""Lines of the log after which something was not as anybody had thought of."""


def seen_from_outside(clients: list[Client], journal: Journal) -> None:
    """Every operation as it ended, every call of it once; every image as it was left."""
    for client in clients:
        for entry in client.ended:
            client.compare(entry)
    images = _listed(clients[0])
    expected = {
        each.image_id: each
        for each in journal.pictures
        if each.status != "GONE" and each.key not in journal.uncertain
    }
    for picture in expected.values():
        _compare(journal, picture, images.get(picture.image_id))
    unknown = [
        each.id
        for each in images.values()
        if each.id not in expected and each.labels["key"] not in journal.uncertain
    ]
    if unknown:
        journal.violated(f"images that nobody made, or that were deleted: {unknown}")
    made = Counter(each.labels["key"] for each in images.values())
    if twice := [key for key, number in made.items() if number > 1]:
        journal.violated(f"made more than once: {twice}")


def _listed(client: Client) -> dict[str, image_pb2.Image]:
    found, token = {}, ""
    while True:
        request = image_service_pb2.ListImagesRequest(
            folder_id="folder", page_size=1000, page_token=token
        )
        page = client.call("List", request)
        assert not isinstance(page, Refused)
        found.update({each.id: each for each in page.images})
        token = page.next_page_token
        if not token:
            return found


def _compare(journal: Journal, picture: Picture, image: image_pb2.Image | None) -> None:
    if image is None:
        journal.violated(f"lost: {picture}")
        return
    status = image_pb2.Image.Status.Name(image.status)
    if (status, image.name, dict(image.labels)) != (picture.status, picture.name, picture.labels):
        journal.violated(f"{picture} became {image}")


class Inside:
    """The database and the contents of a fleet that has ended."""

    def __init__(self, fleet: Fleet, journal: Journal) -> None:
        self._fleet = fleet
        self._journal = journal
        environment = fleet.members[0].environment
        self._environment = environment
        self._settings = config.load(environment=environment)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[MetadataStore, ContentStore]]:
        with contextlib.closing(wiring.open_existing_store(self._settings)) as store:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in self._fleet.environment.items():
                    patch.setenv(name, value)  # the AWS variables, which nobody hands on
                contents = wiring.open_contents(self._settings)
            yield store, contents

    def leftovers(self) -> list[str]:
        """What only the collector removes: names of files, uploads and rows without use."""
        with self._opened() as (store, contents):
            rows = {each.id for each in store.contents("", 1_000_000)}
            unused = store.unreferenced_contents(10)
            stray = [name for name in contents.ids() if name not in rows]
        scratch = [each.name for each in self._settings.scratch_path.iterdir()]
        return [*unused, *stray, *scratch]

    def clean(self) -> bool:
        return not self.leftovers()

    def examine(self, sources: Path) -> None:
        """Every row, every file and every line of the log."""
        with self._opened() as (store, contents):
            self._operations(store)
            self._contents(store, contents, sources)
        self._fsck()
        self._log()
        parts = list(self._fleet.data.rglob("*.part"))
        if parts:
            self._journal.violated(f"temporary files: {parts}")

    def _operations(self, store: MetadataStore) -> None:
        if left := store.unfinished():
            self._journal.violated(f"operations or leases are left: {left}")
        entries = self._journal.entries
        known = {each.operation_id for each in entries}
        if len(known) != len(entries):
            self._journal.violated("two calls were given the same operation")
        for image_id in {each.picture.image_id for each in entries}:
            for operation in store.list_operations(image_id, (0, ""), 1000):
                if operation.state is not State.DONE:
                    self._journal.violated(f"not ended: {operation}")
                if operation.id not in known and not self._journal.uncertain:
                    self._journal.violated(f"an operation that no call was told of: {operation}")

    def _contents(self, store: MetadataStore, contents: ContentStore, sources: Path) -> None:
        """READY images have the bytes that they were made of; equal sources make equal files."""
        digests = {
            hashlib.sha256(each.read_bytes()).hexdigest(): each for each in sources.iterdir()
        }
        made: dict[str, set[str]] = {}
        known = {each.id: each for each in store.contents("", 1_000_000)}
        for picture in self._journal.pictures:
            if picture.status != "READY" or picture.key in self._journal.uncertain:
                continue
            image = store.get(Image, picture.image_id)
            content = known.get(image.content_id or "") if image else None
            if content is None:
                self._journal.violated(f"READY without content: {picture}")
                continue
            source = digests[content.source_sha256]
            if source.name != picture.source:
                self._journal.violated(f"{picture} has the bytes of {source.name}")
            if content.sha256 not in made.setdefault(source.name, set()):
                made[source.name].add(content.sha256)
                self._compare_bytes(contents, content.id, source)
        for name, found in made.items():
            if len(found) > 1:
                self._journal.violated(f"{name} was stored as {len(found)} different files")

    def _compare_bytes(self, contents: ContentStore, content_id: str, source: Path) -> None:
        copy = self._fleet.folder / "stored.qcow2"
        with contents.open(content_id) as file:
            copy.write_bytes(file.read())
        if not same_content(source, source.suffix[1:], copy, "qcow2"):
            self._journal.violated(f"{content_id} is not what {source.name} is")

    def _fsck(self) -> None:
        command = [sys.executable, "-m", "darkroom", "fsck", "--json", "--tables"]
        result = subprocess.run(
            [*command, "--patience", "0.1"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            self._journal.violated(f"fsck: {result.stdout or result.stderr}")

    def _log(self) -> None:
        succeeded: Counter[str] = Counter()
        for line in self._fleet.log_lines():
            if line["event"] in _DEFECTS or "exception" in line:
                self._journal.violated(f"log of {line['member']}: {json.dumps(line)}")
            if line["event"] == "operation left" and line.get("outcome") == "succeeded":
                succeeded[line["operation_id"]] += 1
        if twice := [each for each, number in succeeded.items() if number > 1]:
            self._journal.violated(f"operations that succeeded more than once: {twice}")
