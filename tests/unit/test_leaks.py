"""The search that every installation of a test ends with finds every kind of secret."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from api.accounts import key_of, signed
from darkroom.api.access.account_files import make_token
from darkroom.api.tokens import Tokens
from leaks import leaks
from object_server import SIGNATURE

_TOKENS = Tokens(lambda text: hashlib.sha512(text).digest(), lambda _text, _signature: True)
SECRETS: dict[str, Callable[[], str]] = {
    "pre-signed URL": lambda: f"https://host/b/k?X-Amz-Expires=1&{SIGNATURE}",
    "IAM token": lambda: _TOKENS.issue("ci")[0],
    "JWT": lambda: signed(key_of("ci")),
    "static token": make_token,
    "private key": lambda: key_of("ci")["private_key"],
}


@pytest.mark.parametrize("kind", SECRETS)
def test_every_kind_of_secret_is_found(kind: str, tmp_path: Path) -> None:
    log, below = tmp_path / "serve.log", tmp_path / "data" / "folder"
    below.mkdir(parents=True)
    log.write_text("nothing")
    (below / "file").write_text(f"before {_TOKENS.issue('ci')[0].rpartition('.')[0]} after")
    assert leaks(tmp_path / "data", log) == []
    secret = SECRETS[kind]()
    log.write_text(f"before {secret} after")
    (below / "file").write_bytes(b"\0\xff" + secret.encode())
    found = leaks(tmp_path / "data", log)
    assert [each.partition(":")[0] for each in found] == ["file", "serve.log"]
    assert secret not in str(found)
