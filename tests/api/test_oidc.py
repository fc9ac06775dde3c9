"""Mode `oidc`: tokens of listed issuers, by keys that are fetched from them."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from api.certificates import Authority
from api.client import Refused, refused, until
from api.conftest import LogLines, Starter
from api.issuer import AUDIENCE, DISCOVERY, Issuer
from api.test_iam import Iam, is_the_one_answer
from darkroom.api.access import directory, issuer_keys
from darkroom.api.access.directory import DirectoryError
from darkroom.api.access.iam import account_mark
from darkroom.api.access.issuer_keys import FetchError, IssuerKeys, KeySet, SigningKey, fetched
from darkroom.api.access.revocations import revoke
from darkroom.domain.errors import Failure
from darkroom.storage.sqlite import SqliteStore


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer().running() as running:
        yield running


def describe(folder: Path, issuer: Issuer, **more: Any) -> None:
    """Access files with the issuer, in which `bob` and the group `team` may look."""
    (folder / "access").mkdir(exist_ok=True)
    entry = {"url": issuer.url, "audiences": [AUDIENCE], "groups_claim": "groups", **more}
    role = {
        "role": "viewer",
        "cloud": True,
        "subjects": ["federatedUser:sso:bob", "group:sso:team"],
    }
    document = {"issuers": [{"prefix": "sso:", **entry}], "roles": [role]}
    (folder / "access" / "issuers.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture
def client(start: Starter, issuer: Issuer, tmp_path: Path) -> Iterator[Iam]:
    describe(tmp_path, issuer)
    server = start(auth_mode="oidc", oidc_loopback_http=True)
    with grpc.insecure_channel(server.address) as channel:
        yield Iam(channel)


def asked(client: Iam, token: str) -> Refused:
    return refused(lambda: client.images_of("folder", f"Bearer {token}"))


def test_tokens_of_an_issuer_are_good_for_its_users(
    client: Iam, issuer: Issuer, lines: LogLines
) -> None:
    for token in (
        issuer.token(),
        issuer.token(kid="ec", alg="ES256"),
        issuer.token(alg="PS256"),
        issuer.token(aud=["other", AUDIENCE]),
        issuer.token(sub="eve", groups=["team", "staff"]),
        issuer.token(sub="eve", groups="team"),
        issuer.token(iat=None),
    ):
        assert client.good(token)
    assert [each["subject"] for each in lines.calls()[3:5]] == ["sso:bob", "sso:eve"]
    for stranger in (issuer.token(sub="eve"), issuer.token(sub="eve", groups=["te"])):
        assert asked(client, stranger).code is grpc.StatusCode.PERMISSION_DENIED
    assert issuer.asked == [DISCOVERY, "/keys"], "keys are kept"


def bad_tokens(issuer: Issuer) -> dict[str, str]:
    now = int(time.time())
    good = issuer.token()
    head, claims, signature = good.split(".")
    stranger = rsa.generate_private_key(65537, 2048)
    public = issuer.signers["rsa"].public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa"}').rstrip(b"=").decode()
    other = base64.urlsafe_b64encode(json.dumps({"iss": issuer.url}).encode()).rstrip(b"=").decode()
    return {
        "nothing": "no-token-at-all",
        "another token": "t1.a.b",
        "unsigned": f"{unsigned}.{claims}.",
        "claims changed": f"{head}.{other}.{signature}",
        "another key": issuer.token(signer=stranger),
        "a key of its own": issuer.token(signer=stranger, headers={"jwk": issuer.jwks()[0]}),
        "a shared secret": hmac_signed(issuer, pem),
        "an algorithm that is not listed": issuer.token(alg="RS512"),
        "an algorithm of another kind of key": issuer.token(
            kid="ec", alg="RS256", signer=issuer.signers["rsa"]
        ),
        "no key id": issuer.token(kid=None, signer=issuer.signers["rsa"]),
        "another issuer": issuer.token(iss="https://other.example"),
        "no issuer": issuer.token(iss=None),
        "another audience": issuer.token(aud="other"),
        "no audience": issuer.token(aud=None),
        "expired": issuer.token(exp=now - 60),
        "no expiry": issuer.token(exp=None),
        "not good yet": issuer.token(nbf=now + 60),
        "from the future": issuer.token(iat=now + 60),
        "no subject": issuer.token(sub=None),
        "empty subject": issuer.token(sub=""),
        "long subject": issuer.token(sub="x" * 97),
        "subject with a space": issuer.token(sub="b ob"),
        "groups that are none": issuer.token(groups={"a": 1}),
        "many groups": issuer.token(groups=[str(number) for number in range(1001)]),
    }


def hmac_signed(issuer: Issuer, secret: bytes) -> str:
    """Signed with the public key as if it were a secret that both sides share."""
    import hashlib
    import hmac

    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=")
        for each in (
            {"alg": "HS256", "kid": "rsa"},
            {"iss": issuer.url, "aud": AUDIENCE, "sub": "bob", "exp": int(time.time()) + 60},
        )
    ]
    body = b".".join(parts)
    signature = base64.urlsafe_b64encode(hmac.digest(secret, body, hashlib.sha256)).rstrip(b"=")
    return f"{body.decode()}.{signature.decode()}"


def test_every_bad_token_gets_the_same_answer(client: Iam, issuer: Issuer, lines: LogLines) -> None:
    for what, token in bad_tokens(issuer).items():
        answer = asked(client, token)
        assert answer.code is grpc.StatusCode.UNAUTHENTICATED, what
        is_the_one_answer(answer)
        line = json.dumps(lines.calls()[-1])
        assert lines.calls()[-1]["denial"], what
        assert token not in line and "bob" not in line
    assert issuer.asked.count("/keys") == 1


def test_a_remembered_token_ends_as_others_do(
    client: Iam, issuer: Issuer, store: SqliteStore, tmp_path: Path
) -> None:
    now = time.time()
    token, soon_over = issuer.token(), issuer.token(exp=int(now) - 28)
    assert client.good(token) and client.good(soon_over)
    until(lambda: not client.good(soon_over), "its time is over")
    now_us = int(now * 1e6)
    store.write(lambda tx: revoke(tx, account_mark("sso:bob"), now_us))
    until(lambda: not client.good(token), "what bob was given until now is revoked")
    later = issuer.token(iat=int(now) + 2)
    assert client.good(later)
    describe(tmp_path, issuer, audiences=["other"])
    until(lambda: not client.good(later), "it is not meant for this server any more")


def test_what_clients_exchange_they_get_back(client: Iam, issuer: Issuer) -> None:
    token = issuer.token()
    reply = client.exchange(yandex_passport_oauth_token=token)
    assert reply.iam_token == token
    assert 590 < reply.expires_at.seconds - time.time() <= 600
    assert client.good(reply.iam_token)
    is_the_one_answer(refused(lambda: client.exchange(yandex_passport_oauth_token=token + "x")))
    is_the_one_answer(refused(lambda: client.exchange(jwt=issuer.token(aud="other"))))


def test_an_issuer_that_is_away_delays_only_what_needs_it(
    client: Iam, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.answers["/keys"] = (503, b"")
    answer = asked(client, issuer.token())
    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert answer.reason == "ISSUER_UNREACHABLE"
    assert answer.trailers["grpc-retry-pushback-ms"] == "10000"
    assert asked(client, issuer.token()).reason == "ISSUER_UNREACHABLE"
    assert issuer.asked.count("/keys") == 1, "not asked again at once"
    del issuer.answers["/keys"]
    monkeypatch.setattr(issuer_keys, "PAUSE_SECONDS", 0.0)
    assert client.good(issuer.token())
    issuer.answers["/keys"] = (503, b"")
    assert client.good(issuer.token(sub="bob", iat=None))


def test_new_keys_are_fetched_when_a_token_names_one(
    client: Iam, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = issuer.token()
    assert client.good(old)
    issuer.signers["new"] = rsa.generate_private_key(65537, 2048)
    newest = issuer.token(kid="new")
    # Tokens of keys that nobody knows do not make it ask without a pause.
    assert not client.good(newest)
    assert issuer.asked.count("/keys") == 1
    monkeypatch.setattr(issuer_keys, "PAUSE_SECONDS", 0.0)
    assert client.good(newest) and client.good(old)
    del issuer.signers["rsa"]
    monkeypatch.setattr(issuer_keys, "FRESH_SECONDS", 0.0)
    until(lambda: not client.good(old), "what a withdrawn key has signed is refused")
    assert client.good(newest)


@pytest.mark.parametrize("how", ["http", "nobody"])
def test_a_start_without_a_usable_issuer_is_refused(
    start: Starter, issuer: Issuer, tmp_path: Path, how: str
) -> None:
    if how == "http":
        describe(tmp_path, issuer)
    with pytest.raises(DirectoryError, match=r"needs https|have no issuers"):
        start(auth_mode="oidc")


# --- keys -----------------------------------------------------------------------------------------


def described(issuer: Issuer, **more: Any) -> directory.Issuer:
    return directory.Issuer(issuer.url, (AUDIENCE,), **more)


@pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        (DISCOVERY, (404, b""), "status 404"),
        (DISCOVERY, (302, b""), "status 302"),
        (DISCOVERY, (200, b"<html>"), "not the document"),
        (DISCOVERY, (200, b"[]"), "not the document"),
        (DISCOVERY, (200, b'{"issuer": "https://other.example"}'), "about another issuer"),
        ("/keys", (302, b""), "status 302"),
        ("/keys", (200, b"x" * (1024 * 1024 + 1)), "more than 1048576 bytes"),
        ("/keys", (200, b'{"keys": 5}'), "not the document"),
        ("/keys", (200, b"[" * 100_000), "not the document"),
    ],
)
def test_what_an_issuer_should_not_say_is_no_key(
    issuer: Issuer, path: str, answer: tuple[int, bytes], problem: str
) -> None:
    issuer.answers[path] = answer
    with pytest.raises(FetchError, match=problem):
        fetched(described(issuer))


@pytest.mark.parametrize(
    "keys_url", ["https://127.0.0.1/keys", "file:///etc/passwd", "http://192.0.2.1/keys", "http:"]
)
def test_discovery_leads_nowhere_else(issuer: Issuer, keys_url: str) -> None:
    document = {"issuer": issuer.url, "jwks_uri": keys_url}
    issuer.answers[DISCOVERY] = (200, json.dumps(document).encode())
    with pytest.raises(FetchError):
        fetched(described(issuer))


def test_keys_that_are_of_no_use_are_left_out(issuer: Issuer) -> None:
    good, *_ = issuer.jwks()
    issuer.signers = {"short": rsa.generate_private_key(65537, 1024)}
    (short,) = issuer.jwks()
    keys = [
        {**good, "alg": "RS256"},
        short,
        {**good, "kid": "encrypts", "use": "enc"},
        {**good, "kid": None},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "RSA", "kid": "broken", "n": "AA"},
        {"kty": "strange", "kid": "strange"},
    ]
    issuer.answers["/keys"] = (200, json.dumps({"keys": keys}).encode())
    found = fetched(described(issuer, keys_url=f"{issuer.url}/keys")).keys
    assert {key_id: key.algorithm for key_id, key in found.items()} == {"rsa": "RS256"}


def test_keys_come_over_tls_from_whom_the_operator_trusts(tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.peer()
    files = tmp_path / "issuer.pem", tmp_path / "issuer.key"
    files[0].write_bytes(pair.certificate)
    files[1].write_bytes(pair.key)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.certificate)
    with Issuer().running(files) as issuer:
        assert fetched(described(issuer, ca_file=str(ca))).keys.keys() == {"rsa", "ec"}
        with pytest.raises(FetchError, match="SSLCertVerificationError"):
            fetched(described(issuer))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_keys_are_kept_for_a_day_when_there_are_no_newer_ones() -> None:
    clock, calls, away = Clock(), [], False
    key = SigningKey(object(), "")

    def fetch(_issuer: directory.Issuer) -> KeySet:
        calls.append(clock.now)
        if away:
            raise FetchError("away")
        return KeySet(b"same", {"key": key})

    keys = IssuerKeys(directory.Issuer("https://issuer.example", ("a",)), fetch, clock)
    first, found = keys.find("key")
    assert found is key
    away = True
    clock.now = 700.0
    assert keys.find("key") == (first, key), "the calls go on"
    until(lambda: len(calls) == 2, "new ones are asked for beside them")
    until(lambda: keys._fetching.acquire(blocking=False), "that ends")
    keys._fetching.release()
    clock.now = 24 * 3600.0
    with pytest.raises(Failure, match="cannot be fetched"):
        keys.find("key")
    away = False
    clock.now += 10.0
    assert keys.find("key")[0] is first, "the same keys are the same set"


def test_few_calls_wait_for_an_issuer_that_is_slow() -> None:
    held, begun = threading.Event(), threading.Event()

    def fetch(_issuer: directory.Issuer) -> KeySet:
        begun.set()
        assert held.wait(30)
        return KeySet(b"", {"key": SigningKey(object(), "")})

    keys = IssuerKeys(directory.Issuer("https://issuer.example", ("a",)), fetch)
    outcomes: list[bool] = []

    def find() -> None:
        try:
            keys.find("key")
        except Failure:
            outcomes.append(False)
        else:
            outcomes.append(True)

    threads = [threading.Thread(target=find) for _ in range(40)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    until(lambda: outcomes.count(False) == 24, "who cannot wait is sent away")
    held.set()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 16
