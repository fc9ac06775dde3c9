"""Mode `iam` as its users have it: accounts from the command line, official clients, unmodified."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.accounts import signed
from clients.environments import YANDEXCLOUD, environment
from clients.gateways import gateway
from clients.replays import player, sdk_sequences, terraform_sequences
from clients.replays.steps import Sequence
from clients.test_grpcurl import GRPCURL
from clients.test_grpcurl import VERSION as GRPCURL_VERSION
from darkroom.api.access.directory import digest
from darkroom.cli.dev import CATALOG
from darkroom.cli.main import main
from darkroom.domain.ids import new_id
from installation import Installation, installation, until
from object_server import ObjectServer

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("yandexcloud_iam.py")
VERSION = YANDEXCLOUD.partition("==")[2]
MOST_ACTIVE = 8
LIST = "yandex.cloud.compute.v1.ImageService/List"


def darkroom(folder: Path, *arguments: str, fails: bool = False) -> str:
    """Run a command on the installation in a folder; what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*arguments, "--data-dir", str(folder / "data")])
    assert status == int(fails), err.getvalue()
    return err.getvalue() if fails else out.getvalue().strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("iam")


@pytest.fixture(scope="module")
def key_file(folder: Path) -> Path:
    """The key of `ci`, which may edit the default folder."""
    path = folder / "ci.json"
    darkroom(
        *(folder, "account", "create", "ci", "--role", "editor"),
        *("--on-folder", "b1gdefault0000000000", "--output", str(path)),
    )
    return path


@pytest.fixture(scope="module")
def static_token(folder: Path) -> str:
    """The token of `alice`, who may look at everything."""
    return darkroom(folder, "account", "create", "alice", "--user", "--role", "viewer")


@pytest.fixture(scope="module")
def robot(folder: Path) -> dict[str, str]:
    """The key of an account that may do everything."""
    made = darkroom(folder, "account", "create", "robot", "--role", "admin")
    return dict(json.loads(made))


@pytest.fixture(scope="module")
def served(
    folder: Path,
    key_file: Path,
    static_token: str,
    robot: dict[str, str],
    objects: ObjectServer,
) -> Iterator[Installation]:
    """An installation with these accounts, and one for whoever is replayed."""
    replayed = f"""
users: [{{id: replayed, tokens: [{{sha256: {digest("y0_replayed")}}}]}}]
roles: [{{role: admin, cloud: true, subjects: ["userAccount:replayed"]}}]
"""
    (folder / "data" / "access" / "replayed.yaml").write_text(replayed)
    settings = {
        "DARKROOM_TLS_LISTEN": "127.0.0.1:0",
        "DARKROOM_AUTH_MODE": "iam",
        "DARKROOM_CATALOG": str(CATALOG),
        "DARKROOM_MAX_ACTIVE_OPERATIONS_PER_FOLDER": str(MOST_ACTIVE),
    }
    with installation(folder, objects.origin, **settings) as running:
        yield running


def call(served: Installation, method: str, request: dict[str, str], token: str = "") -> Any:
    """What grpcurl gets, or the code that it is refused with. There is no reflection."""
    descriptors = ROOT / "generated" / "darkroom_pb" / "descriptors.binpb"
    header = ["-H", f"authorization: Bearer {token}"] if token else []
    finished = subprocess.run(
        [
            *(GRPCURL, "-plaintext", "-protoset", str(descriptors), *header),
            *("-d", json.dumps(request), served.address, method),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if finished.returncode == 0:
        return json.loads(finished.stdout)
    return finished.stderr.partition("Code: ")[2].partition("\n")[0]


def test_a_key_file_is_what_the_sdks_take_and_nobody_else_reads_it(
    folder: Path, key_file: Path
) -> None:
    key = json.loads(key_file.read_text())
    assert list(key) == [
        *("id", "service_account_id", "created_at", "key_algorithm"),
        *("public_key", "private_key"),
    ]
    assert key["key_algorithm"] == "RSA_2048"
    assert key_file.stat().st_mode & 0o777 == 0o600
    own = folder / "data" / "access" / "ci.yaml"
    assert own.stat().st_mode & 0o777 == 0o600
    assert own.parent.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in own.read_text()


# The environment is made by the first test that asks for it.
@pytest.mark.timeout(600)
@pytest.mark.client(
    "the official Python SDK `yandexcloud`",
    VERSION,
    "where callers must be known: with a service-account key and with the static token of a user",
    "ran",
)
def test_the_python_sdk_is_known_by_its_key_file(
    served: Installation, key_file: Path, static_token: str
) -> None:
    python = environment("yandexcloud", [YANDEXCLOUD])
    endpoint = served.tls_endpoint
    ca_file = str(served.ca_file)
    command = [str(python), str(CLIENT), endpoint, ca_file, str(key_file), static_token]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    seen = json.loads(result.stdout)
    disk_id = seen.pop("disk_id")
    text = "Token is invalid or has expired."
    for exchanged in ("unknown_token", "stolen_id"):
        # When its exchange fails, the SDK has no code of its own for that.
        assert text in seen.pop(exchanged)
    assert seen == {
        "by_the_account": True,
        "user_who_may_look": f"PERMISSION_DENIED Permission denied to disk {disk_id}",
        "no_token_of_ours": f"UNAUTHENTICATED {text}",
        "account": "OK",
    }
    log = served.log_text()
    assert static_token not in log and "PRIVATE KEY" not in log
    assert static_token.encode() not in (served.data / "metadata.sqlite").read_bytes()


@pytest.mark.client("grpcurl", GRPCURL_VERSION, "with an IAM token, by a set of descriptors", "ran")
def test_an_account_lives_through_the_command_line(folder: Path, served: Installation) -> None:
    create = "yandex.cloud.iam.v1.IamTokenService/Create"
    static = darkroom(folder, "account", "create", "bob", "--user", "--role", "compute.viewer")
    identity = {"yandex_passport_oauth_token": static}
    exchanged = until(
        lambda: isinstance(reply := call(served, create, identity), dict) and reply,
        "the server knows the account",
    )
    token = exchanged["iamToken"]
    images = {"folder_id": "any"}
    assert call(served, LIST, images) == "Unauthenticated"
    assert call(served, LIST, images, token) == {}
    assert call(served, LIST, images, darkroom(folder, "account", "token", "bob")) == {}

    # All that was issued until now ends; the static token is as good as before.
    darkroom(folder, "account", "revoke", "bob")
    until(lambda: call(served, LIST, images, token) == "Unauthenticated", "tokens are revoked")
    token = call(served, create, identity)["iamToken"]
    assert call(served, LIST, images, token) == {}

    # A credential ends, and with it what was issued for it.
    second = darkroom(folder, "account", "create-key", "bob")
    (bob,) = (
        each
        for each in json.loads(darkroom(folder, "account", "list", "--json"))
        if each["name"] == "bob"
    )
    assert bob["keys"] == [digest(static), digest(second)]
    assert bob["roles"] == ["compute.viewer on cloud"]
    darkroom(folder, "account", "delete-key", "bob", digest(static))
    until(lambda: call(served, LIST, images, token) == "Unauthenticated", "it ends with its key")
    assert call(served, create, identity) == "Unauthenticated"
    identity = {"yandex_passport_oauth_token": second}
    token = call(served, create, identity)["iamToken"]
    assert call(served, LIST, images, token) == {}
    darkroom(folder, "account", "delete", "bob")
    until(lambda: call(served, LIST, images, token) == "Unauthenticated", "it ends with bob")
    lines = darkroom(folder, "audit", "--json", "--resource", bob["id"]).splitlines()
    entries = [json.loads(line) for line in lines]
    assert [each["action"].removeprefix("account.") for each in entries] == [
        *("create", "token", "revoke", "create_key", "delete_key", "delete")
    ]
    assert {each["subject_id"] for each in entries} == {f"uid {os.getuid()}"}
    assert darkroom(folder, "audit", "--resource", digest(second)).count("account.create_key") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("create", "ci"), "there is an account ci already"),
        (("create", "No Name"), "a name is 1 to 63"),
        (("create", "new", "--role", "owner"), "owner is no role"),
        (("create", "new", "--output", __file__), "exists already"),
        (("delete", "nobody"), "there is no account nobody"),
        (("delete-key", "ci", "nothing"), "has no key nothing"),
        (("create-key", "replayed"), "stands in a file that somebody else keeps"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, served: Installation, arguments: tuple[str, ...], reason: str
) -> None:
    before = sorted((folder / "data" / "access").iterdir())
    assert reason in darkroom(folder, "account", *arguments, fails=True)
    assert sorted((folder / "data" / "access").iterdir()) == before


def test_iam_is_turned_on_as_the_readme_says(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("<!-- iam:begin -->")[2].partition("<!-- iam:end -->")[0]
    script = block.partition("```sh")[2].partition("```")[0].replace("/tmp/", f"{tmp_path}/")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    listed = subprocess.run(
        ["bash", "-euc", f"trap 'kill %1; wait' EXIT\n{script}"],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DARKROOM_LISTEN": address,
            "DARKROOM_TLS_LISTEN": "",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "serviceAccount  ci" in listed and "role editor on cloud" in listed
    assert "userAccount  alice" in listed
    assert json.loads((tmp_path / "ci-key.json").read_text())["service_account_id"] in listed
    assert (tmp_path / "alice-token").read_text().startswith("y0_")


@pytest.mark.parametrize(
    "sequence",
    [terraform_sequences.IMAGE, terraform_sequences.BINDINGS, sdk_sequences.GO_SDK_V2_LIFE],
    ids=lambda sequence: sequence.title,
)
def test_terraform_and_go_find_every_reply_as_they_need_it(
    sequence: Sequence,
    served: Installation,
    objects: ObjectServer,
    disk: Path,
    robot: dict[str, str],
) -> None:
    variables = {
        "folder": new_id("b1g"),
        "other_folder": new_id("b1g"),
        "url": objects.url(disk.name),
        "missing_url": objects.url("missing.qcow2"),
        # As the Go SDKs make it: the audience is a list, its host the cloud's.
        "jwt": signed(robot, aud=["https://iam.api.cloud.yandex.net/iam/v1/tokens"]),
    }
    ca = (served.ca_file).read_bytes()
    player.play(sequence, served.tls_endpoint, ca, variables)


# --- over REST ------------------------------------------------------------------------------------


def test_rest_asks_who_calls_and_decides_as_grpc_does(
    folder: Path,
    served: Installation,
    objects: ObjectServer,
    disk: Path,
    static_token: str,
    robot: dict[str, str],
) -> None:
    images, here = "/compute/v1/images", {"folderId": new_id("b1g")}
    wanted = {**here, "uri": objects.url(disk.name)}
    with gateway(folder, served.address) as rest:

        def token(**identity: str) -> str:
            reply = rest.call("POST", "/iam/v1/tokens", identity)
            assert reply.status == 200
            return f"Bearer {reply.body['iamToken']}"

        def listed(**headers: str) -> tuple[int, bytes]:
            path = f"{images}?folderId={here['folderId']}"
            code, _, body = rest.raw("GET", path, x_request_id="the-same", **headers)
            return code, body

        looking, editing = token(yandexPassportOauthToken=static_token), token(jwt=signed(robot))
        assert listed(authorization=looking)[0] == 200
        unknown = listed()
        assert unknown[0] == 401 and json.loads(unknown[1])["code"] == 16
        for wrong in ("Bearer ", "Bearer t1.a.b", looking[:-2], looking.removeprefix("Bearer ")):
            assert listed(authorization=wrong) == unknown

        refused = rest.call("POST", images, wanted, authorization=looking)
        assert (refused.status, refused.body["code"]) == (403, 7)
        assert refused.body["message"] == f"Permission denied to folder {here['folderId']}"

        objects.bytes_per_second = 1000  # none of them ends
        try:
            begun = [
                rest.call("POST", images, wanted, authorization=editing) for _ in range(MOST_ACTIVE)
            ]
            assert {each.status for each in begun} == {200}
            crowded = rest.call("POST", images, wanted, authorization=editing)
            assert (crowded.status, crowded.body["code"]) == (429, 8)
            kinds = {each["@type"].rpartition(".")[2] for each in crowded.body["details"]}
            assert {"QuotaFailure", "RetryInfo", "RequestInfo"} <= kinds
            for operation in begun:
                path = f"/operations/{operation.body['id']}:cancel"
                assert rest.call("GET", path, authorization=looking).status == 403
                assert rest.call("GET", path, authorization=editing).status == 200
        finally:
            objects.bytes_per_second = 0
