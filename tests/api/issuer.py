"""An OpenID Connect issuer on loopback: discovery, keys, and tokens of any kind."""

import contextlib
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

DISCOVERY = "/.well-known/openid-configuration"
AUDIENCE = "darkroom"

_RSA = rsa.generate_private_key(65537, 2048)
_EC = ec.generate_private_key(ec.SECP256R1())


class Issuer:
    """Its answers can be changed while it runs."""

    def __init__(self) -> None:
        self.url = ""
        self.signers: dict[str, Any] = {"rsa": _RSA, "ec": _EC}
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        """What is answered instead, by path."""

    def jwks(self) -> list[dict[str, Any]]:
        keys = []
        for key_id, key in self.signers.items():
            kind = (
                jwt.algorithms.RSAAlgorithm
                if isinstance(key, rsa.RSAPrivateKey)
                else jwt.algorithms.ECAlgorithm
            )
            public: dict[str, Any] = json.loads(kind.to_jwk(key.public_key()))
            keys.append({**public, "kid": key_id, "use": "sig"})
        return keys

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if path in self.answers:
            return self.answers[path]
        if path == DISCOVERY:
            document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
            return 200, json.dumps(document).encode()
        if path == "/keys":
            return 200, json.dumps({"keys": self.jwks()}).encode()
        return 404, b""

    def token(self, *, kid: Any = "rsa", alg: str = "RS256", **changes: Any) -> str:
        """A token for `bob`, with claims changed; None drops one. `signer` is another key."""
        now = int(time.time())
        signer = changes.pop("signer", None)
        headers = changes.pop("headers", {})
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "bob",
            "iat": now,
            "exp": now + 600,
            **changes,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        headers = {name: value for name, value in {"kid": kid, **headers}.items() if value}
        return jwt.encode(kept, signer or self.signers[kid], algorithm=alg, headers=headers)

    @contextlib.contextmanager
    def running(self, pair: tuple[Path, Path] | None = None) -> Iterator["Issuer"]:
        """Serve on a free port: over TLS with a certificate and a key, if they are given."""
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = issuer.answer(self.path)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{issuer.url}/keys")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            scheme, host = "http", "127.0.0.1"
            if pair is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*pair)
                server.socket = context.wrap_socket(server.socket, server_side=True)
                scheme, host = "https", "localhost"
            self.url = f"{scheme}://{host}:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
