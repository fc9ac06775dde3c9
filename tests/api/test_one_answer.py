"""Whoever does not prove who they are gets one answer, to the byte, whatever they ask for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from api.accounts import Accounts, signed
from api.client import PATIENCE_SECONDS
from api.conftest import Starter
from api.issuer import Issuer
from api.test_iam import strangers_key
from api.test_oidc import describe
from darkroom.api.permissions import PERMISSIONS, PUBLIC
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2

ASKED = [path for path, rule in PERMISSIONS.items() if rule != PUBLIC]
EXCHANGE = "/yandex.cloud.iam.v1.IamTokenService/Create"
MODES = ("iam", "mesh", "oidc")
PEER = "gateway.example"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer().running() as running:
        yield running


@pytest.fixture
def bad(tmp_path: Path, issuer: Issuer) -> dict[str, list[str | None]]:
    """Authorizations that prove nothing, by the mode they were made for; None sends none."""
    describe(tmp_path, issuer)
    key = Accounts(tmp_path / "access").service_account("ci")
    return {
        "iam": [
            *(None, "", "Bearer", "Bearer t1.a.b", "Basic t1.a.b", f"Bearer {signed(key)}"),
            f"Bearer {signed(key, signer=strangers_key(key))}",
        ],
        "mesh": [None, "Bearer t1.a.b"],
        "oidc": [None, *(f"Bearer {issuer.token(**each)}" for each in ({"aud": "x"}, {"exp": 1}))],
    }


def answer_to(
    channel: Any, path: str, request: bytes, authorization: str | None
) -> tuple[Any, ...]:
    """All that a refused caller sees, but for the ids that the server gives each call."""
    metadata = [("x-request-id", "the-same"), ("x-darkroom-subject", "userAccount:alice")]
    if authorization is not None:
        metadata.append(("authorization", authorization))
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(request, metadata=metadata, timeout=PATIENCE_SECONDS)
    failed: Any = caught.value
    headers = {
        key: "" if key.startswith("x-server-") else value
        for key, value in failed.initial_metadata()
    }
    assert headers["x-request-id"] == "the-same"
    trailers = tuple(sorted(failed.trailing_metadata()))
    return failed.code(), failed.details(), trailers, tuple(sorted(headers.items()))


def test_every_mode_and_method_gives_the_same_answer_to_the_byte(
    start: Starter, bad: dict[str, list[str | None]]
) -> None:
    seen = {}
    for mode in MODES:
        server = start(auth_mode=mode, oidc_loopback_http=True, mesh_peer=(PEER,))
        with grpc.insecure_channel(server.address) as channel:
            first, *others = bad[mode]
            for path in ASKED:
                # What is asked for is not even looked at.
                for request in (b"", b"\xff\xff"):
                    seen[mode, path, request, first] = answer_to(channel, path, request, first)
            for other in others:
                seen[mode, ASKED[0], b"", other] = answer_to(channel, ASKED[0], b"", other)
            if mode == "iam":
                for jwt in ("what", str(others[-1])):
                    exchanged = iam_token_service_pb2.CreateIamTokenRequest(jwt=jwt)
                    request = exchanged.SerializeToString()
                    seen[mode, EXCHANGE, request, None] = answer_to(
                        channel, EXCHANGE, request, None
                    )
    (answer,) = set(seen.values())
    code, text, trailers, _ = answer
    assert (code, text) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "Token is invalid or has expired.",
    )
    assert b"RequestInfo" in dict(trailers)["grpc-status-details-bin"]
    assert len(seen) > 2 * len(MODES) * len(ASKED)
