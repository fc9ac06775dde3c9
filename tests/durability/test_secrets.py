"""Pre-signed URLs and tokens leave no trace: not in logs, not on disk, not in what callers see."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clients.test_import import image_id_of
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2, iam_token_service_pb2_grpc
from installation import Installation, until
from object_server import SIGNATURE, ObjectServer

OAUTH = "y0_OauthCanaryOauthCanary"
KEY = (("idempotency-key", "one"),)


def files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def test_no_signature_or_token_stays_anywhere(
    darkroom: Installation, source: ObjectServer, disk: Path
) -> None:
    assert darkroom.channel is not None
    tokens = iam_token_service_pb2_grpc.IamTokenServiceStub(darkroom.channel)
    request = iam_token_service_pb2.CreateIamTokenRequest(yandex_passport_oauth_token=OAUTH)
    token = tokens.Create(request).iam_token
    bearer = (("authorization", f"Bearer {token}"),)
    shown: list[Any] = []
    # One that succeeds, one that is refused by the source, one that is no image, one repeated, one
    # cancelled, one that is not even allowed.
    (source.folder / "page.html").write_text("<!doctype html><html></html>")
    for name in (disk.name, "absent.qcow2", "page.html"):
        begun = darkroom.create(source.url(name), metadata=bearer, name=name.partition(".")[0])
        shown.append(darkroom.done(begun.id))
        image = image_service_pb2.GetImageRequest(image_id=image_id_of(begun))
        shown.append(darkroom.images.Get(image))
    twice = (*bearer, *KEY)
    shown += [darkroom.create(source.url(disk.name), metadata=twice) for _ in range(2)]
    darkroom.done(shown[-1].id)
    source.bytes_per_second = 100_000
    slow = darkroom.create(source.url(disk.name), metadata=bearer)
    until(darkroom.scratch, "the download to begin")
    command_lines = [
        Path(f"/proc/{pid}/cmdline").read_bytes() for pid in [os.getpid(), *darkroom.workers()]
    ]
    darkroom.cancel(slow.id)
    shown.append(darkroom.done(slow.id))
    outside = darkroom.create(f"https://elsewhere.example/x?{SIGNATURE}", metadata=bearer)
    shown.append(darkroom.done(outside.id))

    # The signature of a token is its last part; what comes before names its holder and its end.
    secrets = [SIGNATURE.partition("=")[2], OAUTH, token.rpartition(".")[2]]
    places = {str(path): path.read_bytes() for path in files(darkroom.folder / "data")}
    places |= {"log": darkroom.log_path.read_bytes(), "answers": repr(shown).encode()}
    places |= {f"command line {n}": line for n, line in enumerate(command_lines)}
    assert len(places) > 5
    found = [
        (place, secret)
        for place, data in places.items()
        for secret in secrets
        if secret.encode() in data
    ]
    assert not found
    # What is no secret is found, so the search works.
    assert any(b"absent" in data for data in places.values())
    # Nobody else on the machine may read any of it.
    loose = [path for path in (darkroom.data).rglob("*") if path.stat().st_mode & 0o077]
    assert {path.name for path in loose} <= {"ca.pem"}
