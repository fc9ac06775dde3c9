"""Mode `iam`: who gets a token, and which calls a token is good for."""

import base64
import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.rpc import error_details_pb2

from api.accounts import CLOUD, Accounts, signed
from api.client import PATIENCE_SECONDS, Client, Refused, refused, until
from api.conftest import LogLines, Starter
from darkroom.api.server import Server
from darkroom.storage.sealing import Keyring
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2, iam_token_service_pb2_grpc

TEXT = "Token is invalid or has expired."
TOKEN = r"t1\.[A-Z0-9a-z_-]+[=]{0,2}\.[A-Z0-9a-z_-]{86}[=]{0,2}"


class Iam(Client):
    """A client that can get tokens and make calls with them."""

    def __init__(self, channel: Any) -> None:
        super().__init__(channel)
        self.tokens = iam_token_service_pb2_grpc.IamTokenServiceStub(channel)

    def exchange(self, **identity: str) -> iam_token_service_pb2.CreateIamTokenResponse:
        request = iam_token_service_pb2.CreateIamTokenRequest(**identity)
        return self.tokens.Create(request, timeout=PATIENCE_SECONDS)

    def token(self, key: dict[str, str]) -> str:
        return str(self.exchange(jwt=signed(key)).iam_token)

    def images_of(self, folder_id: str, *authorizations: str) -> Any:
        """List images, with these authorization headers."""
        request = image_service_pb2.ListImagesRequest(folder_id=folder_id)
        metadata = tuple(("authorization", each) for each in authorizations)
        return self.images.List(request, metadata=metadata, timeout=PATIENCE_SECONDS)

    def good(self, token: str) -> bool:
        """Whether calls are answered that have the token."""
        answer = self.outcome(token)
        assert answer in (None, grpc.StatusCode.UNAUTHENTICATED), answer
        return answer is None

    def outcome(self, token: str) -> grpc.StatusCode | None:
        """How a call with the token fails; None if it does not."""
        try:
            self.images_of("folder", f"Bearer {token}")
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return None


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    """An access folder with the service account `ci`, who may do everything."""
    made = Accounts(tmp_path / "access")
    made.grant("admin", CLOUD, "serviceAccount:ci", "userAccount:alice")
    return made


@pytest.fixture
def key(accounts: Accounts) -> dict[str, str]:
    """The key of `ci`."""
    return accounts.service_account("ci")


@pytest.fixture
def server(start: Starter, key: dict[str, str]) -> Server:
    return start(auth_mode="iam")


@pytest.fixture
def client(server: Server) -> Iterator[Iam]:
    with grpc.insecure_channel(server.address) as channel:
        yield Iam(channel)


def is_the_one_answer(answer: Refused) -> None:
    """Whatever is wrong, it reads the same."""
    assert answer.code is grpc.StatusCode.UNAUTHENTICATED
    assert answer.message == TEXT
    assert answer.reason == "UNAUTHENTICATED"
    request_id = answer.detail(error_details_pb2.RequestInfo).request_id
    assert request_id == answer.headers["x-request-id"]
    metadata = dict(answer.detail(error_details_pb2.ErrorInfo).metadata)
    assert metadata.keys() == {"advice"}
    assert len(answer.status.details) == 2


def test_a_service_account_exchanges_its_jwt_and_makes_calls(
    client: Iam, key: dict[str, str], lines: LogLines
) -> None:
    reply = client.exchange(jwt=signed(key))
    assert re.fullmatch(TOKEN, reply.iam_token)
    assert client.good(reply.iam_token)
    calls = lines.calls()
    assert [each["subject"] for each in calls] == ["ci", "ci"]


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["https://iam.api.cloud.yandex.net/iam/v1/tokens"]},
        {"aud": "https://localhost:50443/iam/v1/tokens"},
        {"iat": 20, "exp": 3600},
        {"iat": -3590, "exp": 10},
    ],
)
def test_clients_differ_in_audience_and_clock(
    client: Iam, key: dict[str, str], changes: dict[str, Any]
) -> None:
    now = int(time.time())
    changes = {
        name: now + each if isinstance(each, int) else each for name, each in changes.items()
    }
    assert client.exchange(jwt=signed(key, **changes)).iam_token


def strangers_key(key: dict[str, str]) -> str:
    """A private key that is not the account's."""
    made = rsa.generate_private_key(65537, 2048)
    return made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def bad_jwts(key: dict[str, str]) -> dict[str, str]:
    """JWTs by what is wrong with them."""
    now = int(time.time())
    good = signed(key)
    head, claims, signature = good.split(".")
    unsigned = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": key["id"]}).encode())
    other_claims = base64.urlsafe_b64encode(json.dumps({"iss": "alice"}).encode())
    return {
        "no JWT": "what",
        "four parts": good + ".x",
        "signature changed": good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB"),
        "claims changed": f"{head}.{other_claims.rstrip(b'=').decode()}.{signature}",
        "no signature": f"{unsigned.rstrip(b'=').decode()}.{claims}.",
        "algorithm of a shared secret": signed(key, alg="HS256", signer="x" * 32),
        "another algorithm": signed(key, alg="RS256"),
        "another key": signed(key, signer=strangers_key(key)),
        "no key id": signed(key, kid=None),
        "unknown key id": signed(key, kid="ajeunknown"),
        "another account": signed(key, iss="alice"),
        "no account": signed(key, iss=None),
        "expired": signed(key, iat=now - 3700, exp=now - 100),
        "no expiry": signed(key, exp=None),
        "good for too long": signed(key, iat=now, exp=now + 3601),
        "from the future": signed(key, iat=now + 100, exp=now + 200),
        "no time of issue": signed(key, iat=None),
        "not good yet": signed(key, nbf=now + 100),
        "no audience": signed(key, aud=None),
        "empty audience": signed(key, aud=[]),
        "number for an audience": signed(key, aud=[1]),
    }


def test_every_bad_jwt_gets_the_same_answer(
    client: Iam, key: dict[str, str], lines: LogLines
) -> None:
    for what, text in bad_jwts(key).items():
        answer = refused(lambda text=text: client.exchange(jwt=text))  # type: ignore[misc]
        assert answer.code is grpc.StatusCode.UNAUTHENTICATED, what
        is_the_one_answer(answer)
        line = lines.calls()[-1]
        assert line["denial"], what
        assert text not in json.dumps(line)
    reasons = {line["denial"] for line in lines.calls()}
    assert len(reasons) > 5, "the log tells them apart"


def test_a_static_token_is_exchanged_and_an_unknown_one_refused(
    client: Iam, accounts: Accounts, lines: LogLines
) -> None:
    static = accounts.user("alice")
    reply = until_exchanged(client, static)
    assert client.good(reply.iam_token)
    assert lines.calls()[-1]["subject"] == "alice"
    is_the_one_answer(refused(lambda: client.exchange(yandex_passport_oauth_token="y0_guess")))
    # It is no IAM token itself.
    is_the_one_answer(refused(lambda: client.images_of("folder", f"Bearer {static}")))


def until_exchanged(client: Iam, static: str) -> Any:
    """The reply, once the server has read the files again."""

    def exchanged() -> Any:
        with contextlib.suppress(grpc.RpcError):
            return client.exchange(yandex_passport_oauth_token=static)
        return None

    return until(exchanged, "the user is known")


def test_every_call_without_a_good_token_gets_the_same_answer(
    client: Iam, key: dict[str, str], lines: LogLines
) -> None:
    token = client.token(key)
    body, _, signature = token.rpartition(".")
    foreign = f"{body}.{'A' * 86}"
    other_subject = base64.urlsafe_b64encode(b'{"exp":99999999999,"iat":1,"jti":"x","sub":"ci"}')
    forged = f"t1.{other_subject.rstrip(b'=').decode()}.{signature}"
    for authorizations in (
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        (token,),
        (f"Basic {token}",),
        (f"Bearer {foreign}",),
        (f"Bearer {forged}",),
        (f"Bearer {token}x",),
        (f"Bearer {token[:-1]}",),
        (f"Bearer {signed(key)}",),
        (f"Bearer {'.' * 4000}",),
        (f"Bearer {token}", f"Bearer {token}"),
    ):
        answer = refused(lambda given=authorizations: client.images_of("folder", *given))  # type: ignore[misc]
        is_the_one_answer(answer)
        line = lines.calls()[-1]
        assert line["denial"] and line["subject"] == ""
        assert token not in json.dumps(line)
    assert client.good(token)


def test_headers_of_other_modes_say_nothing(client: Iam) -> None:
    request = image_service_pb2.ListImagesRequest(folder_id="folder")
    for name in ("x-darkroom-subject", "x-forwarded-client-cert"):
        metadata = ((name, "serviceAccount:ci"),)
        is_the_one_answer(refused(lambda: client.images.List(request, metadata=metadata)))  # noqa: B023


def test_what_leaves_the_access_files_is_soon_worth_nothing(
    client: Iam, accounts: Accounts, key: dict[str, str]
) -> None:
    token = client.token(key)
    assert client.good(token)
    accounts.drop("service_accounts", "ci")
    until(lambda: not client.good(token), "the token of a deleted account is refused")
    is_the_one_answer(refused(lambda: client.exchange(jwt=signed(key))))


def test_a_broken_access_file_changes_nothing(
    client: Iam, accounts: Accounts, key: dict[str, str], lines: LogLines
) -> None:
    token = client.token(key)
    accounts.path.write_text("service_accounts: [{id: ci, keys: [{id: k, public_key: none}]}]")

    def told() -> Any:
        assert client.good(token)
        return [each for each in lines.records if each.levelname == "ERROR"]

    (line, *_) = until(told, "the log says what is wrong")
    fields = vars(line)["fields"]
    assert "accounts.yaml: service_accounts[0]: keys: [0] public_key: must be" in fields["problem"]
    assert str(accounts.path.parent) not in json.dumps(fields)
    accounts.write()
    assert client.good(client.token(key))


def test_a_revoked_token_is_refused_by_every_server(
    start: Starter, server: Server, client: Iam, key: dict[str, str]
) -> None:
    token, other = client.token(key), client.token(key)
    second = start(auth_mode="iam")
    with grpc.insecure_channel(second.address) as channel:
        elsewhere = Iam(channel)
        assert elsewhere.good(token) and client.good(token)
        request = iam_token_service_pb2.RevokeIamTokenRequest(iam_token=token)
        authorization = (("authorization", f"Bearer {other}"),)
        assert client.tokens.Revoke(request, metadata=authorization).subject_id == "ci"
        assert not client.good(token)
        until(lambda: not elsewhere.good(token), "the other server knows it")
        assert client.good(other) and elsewhere.good(other)
    bad = iam_token_service_pb2.RevokeIamTokenRequest(iam_token="t1.a.b")
    answer = refused(lambda: client.tokens.Revoke(bad, metadata=authorization))
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.fields == {"iam_token": "is no token that is good now"}
    is_the_one_answer(refused(lambda: client.tokens.Revoke(request)))


def test_signing_keys_change_without_a_restart(
    client: Iam, key: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "secret.key"
    old = client.token(key)
    first = path.read_text()
    fresh = base64.b64encode(os.urandom(32)).decode()
    path.write_text(f"{fresh}\n{first}")
    newest = old

    def signed_anew() -> bool:
        nonlocal newest
        newest = client.token(key)
        assert client.good(old) and client.good(newest)
        return not verified_by(first, newest)

    until(signed_anew, "tokens are signed with the new key")
    path.write_text(fresh)
    until(lambda: not client.good(old), "tokens of the old key are refused")
    assert client.good(newest)


def verified_by(keys: str, token: str) -> bool:
    body, _, signature = token.rpartition(".")
    keyring = Keyring([base64.b64decode(line) for line in keys.split()])
    return keyring.verify(body.encode(), base64.urlsafe_b64decode(signature + "=="))


def test_only_an_administrator_of_the_cloud_gets_tokens_for_others(
    client: Iam, accounts: Accounts, key: dict[str, str]
) -> None:
    accounts.service_account("robot")
    editor = accounts.service_account("editor")
    accounts.grant("editor", CLOUD, "serviceAccount:editor")
    robot = iam_token_service_pb2.CreateIamTokenForServiceAccountRequest(service_account_id="robot")

    def given_to(token: str) -> Any:
        authorization = (("authorization", f"Bearer {token}"),)
        return client.tokens.CreateForServiceAccount(robot, metadata=authorization)

    def editor_token() -> str:
        with contextlib.suppress(grpc.RpcError):
            return client.token(editor)
        return ""

    by_editor = until(editor_token, "the editor is known")
    denied = refused(lambda: given_to(by_editor))
    assert denied.code is grpc.StatusCode.PERMISSION_DENIED
    parent = client.exchange(jwt=signed(key))
    reply = given_to(parent.iam_token)
    assert reply.expires_at.seconds <= parent.expires_at.seconds
    # It may be used, and shows whose it is: the robot has no role.
    answer = refused(lambda: client.images_of("folder", f"Bearer {reply.iam_token}"))
    assert answer.code is grpc.StatusCode.PERMISSION_DENIED
    accounts.drop("service_accounts", "ci")
    ended = grpc.StatusCode.UNAUTHENTICATED
    until(lambda: client.outcome(reply.iam_token) is ended, "it ends with who it was given to")


def test_reflection_is_off_where_callers_must_be_known(start: Starter, key: dict[str, str]) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    for settings, answered in (
        ({"auth_mode": "iam"}, False),
        ({"auth_mode": "iam", "reflection": "on"}, True),
        ({}, True),
        ({"reflection": "off"}, False),
    ):
        with grpc.insecure_channel(start(**settings).address) as channel:
            call: Any = channel.stream_stream(path)
            outcome = call(iter([b"\x3a\x00"]), timeout=PATIENCE_SECONDS)
            if answered:
                assert next(outcome)
            else:
                assert refused(lambda: next(outcome)).code is grpc.StatusCode.UNIMPLEMENTED  # noqa: B023
