"""Clients that cannot run here, replayed: their calls, headers and order, and what they insist on.

The sequences are data, in `replays/`; a step there is a call that the client makes.
"""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.replays import player, sdk_sequences, terraform_sequences
from clients.replays.steps import Sequence
from darkroom.cli.dev import CATALOG
from darkroom.domain.ids import new_id
from installation import Installation, installation
from object_server import ObjectServer

VERSIONS = {
    "Go SDK v1": "branch master",
    "Go SDK v2": "2.159.0",
    "terraform-provider-yandex": "0.222.0",
    "yc": "documentation of 2026",
    "packer-plugin-yandex": "e629e39",
}
LIFE = "the life of an image"
RESOURCES = "resources and data sources of images, disks, snapshots and bindings"


@pytest.fixture(scope="module")
def served(
    objects: ObjectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    settings = {"DARKROOM_TLS_LISTEN": "127.0.0.1:0", "DARKROOM_CATALOG": str(CATALOG)}
    folder = tmp_path_factory.mktemp("replays")
    with installation(folder, objects.origin, **settings) as running:
        yield running


def jwt() -> str:
    """As the Go SDKs make it but for the signature: audience is a list, its host the cloud's."""
    now = int(time.time())
    parts = (
        {"alg": "PS256", "kid": "ajekey00000000000000", "typ": "JWT"},
        {
            "aud": ["https://iam.api.cloud.yandex.net/iam/v1/tokens"],
            "exp": now + 3600,
            "iat": now,
            "iss": "ajeaccount0000000000",
        },
    )
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts]
    return b".".join(part.rstrip(b"=") for part in (*encoded, b"c2lnbmF0dXJl")).decode()


def replayed(client: str, what: str, *sequences: Sequence) -> Iterator[object]:
    mark = pytest.mark.client(client, VERSIONS[client], what, "replayed")
    for sequence in sequences:
        yield pytest.param(sequence, marks=mark, id=f"{client}: {sequence.title}")


SEQUENCES = [
    *replayed(
        "Go SDK v1",
        LIFE,
        sdk_sequences.GO_SDK_V1_LIFE,
        sdk_sequences.GO_SDK_V1_WITHOUT_TLS,
        sdk_sequences.GO_SDK_ERRORS,
    ),
    *replayed("Go SDK v2", LIFE, sdk_sequences.GO_SDK_V2_LIFE, sdk_sequences.GO_SDK_ERRORS),
    *replayed("yc", "init and compute image", sdk_sequences.YC_SETUP, sdk_sequences.YC_IMAGES),
    *replayed(
        "packer-plugin-yandex",
        "builder and yandex-import, as far as images go",
        sdk_sequences.PACKER_BUILDER,
        sdk_sequences.PACKER_IMPORT,
    ),
    *replayed(
        "terraform-provider-yandex",
        RESOURCES,
        terraform_sequences.IMAGE,
        terraform_sequences.IMAGE_OF_FAMILY,
        terraform_sequences.IMAGE_OF_ENCRYPTED_DISK,
        terraform_sequences.IMAGE_DATA,
        terraform_sequences.DISK,
        terraform_sequences.DISK_OF_IMAGE,
        terraform_sequences.SNAPSHOT,
        terraform_sequences.BINDINGS,
    ),
]


def play(
    sequence: Sequence,
    served: Installation,
    objects: ObjectServer,
    disk: Path,
    **known: str,
) -> dict[str, str]:
    """Play a sequence in folders of its own; returns what the client has kept."""
    plaintext = any(part.caller.plaintext for part in sequence.parts)
    address = served.address if plaintext else served.tls_address
    variables = {
        "folder": new_id("b1g"),
        "other_folder": new_id("b1g"),
        "url": objects.url(disk.name),
        "missing_url": objects.url("missing.qcow2"),
        "jwt": jwt(),
        **known,
    }
    ca = (served.ca_file).read_bytes()
    return player.play(sequence, f"localhost:{address.rpartition(':')[2]}", ca, variables)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_client_finds_every_reply_as_it_needs_it(
    sequence: Sequence, served: Installation, objects: ObjectServer, disk: Path
) -> None:
    play(sequence, served, objects, disk)


@pytest.mark.client(
    "terraform-provider-yandex", VERSIONS["terraform-provider-yandex"], RESOURCES, "replayed"
)
def test_terraform_waits_for_the_operation_that_is_in_its_way(
    served: Installation, objects: ObjectServer, disk: Path
) -> None:
    served.arm("import.fetch")
    kept = play(terraform_sequences.BUSY_IMAGE, served, objects, disk)
    assert kept["in_the_way"] == kept["begun"]
    served.wait_hit("import.fetch")
    served.let_go("import.fetch")
    play(terraform_sequences.IMAGE_NO_LONGER_BUSY, served, objects, disk, **kept)
