"""Mode `mesh`: the word of a listed sidecar counts, nobody else's."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.accounts import Accounts
from api.certificates import Authority, Pair
from api.client import PATIENCE_SECONDS, Refused, refused, until
from api.conftest import LogLines
from darkroom import wiring
from darkroom.api.access.modes import access
from darkroom.api.server import Server, build_server, build_tls_server, certificate_files
from darkroom.config import SettingError, Settings, load
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2, iam_token_service_pb2_grpc

GATEWAY = "spiffe://cluster.local/ns/istio/sa/gateway"
ALICE = ("x-darkroom-subject", "userAccount:alice")
TEXT = "Token is invalid or has expired."


class Mesh:
    """Servers of one installation on both listeners, and the authority that both sides trust."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.authority = Authority()
        self._folder = folder
        own = self.authority.peer()
        for name, data in (
            ("server.key", own.key),
            ("server.pem", own.certificate),
            ("clients.pem", self.authority.certificate),
        ):
            (folder / name).write_bytes(data)
        self.settings = Settings(
            **{
                "data_dir": folder,
                "listen": "127.0.0.1:0",
                "tls_listen": "localhost:0",
                "tls_certificate": str(folder / "server.pem"),
                "tls_key": str(folder / "server.key"),
                "tls_client_ca": str(folder / "clients.pem"),
                "auth_mode": "mesh",
                "mesh_peer": (GATEWAY, "gateway.example"),
                **settings,
            }
        )
        accounts = Accounts(folder / "access")
        accounts.grant(
            *("viewer", "folder", "userAccount:alice", "group:team"),
            "serviceAccount:spiffe://cluster.local/ns/a/sa/robot",
        )
        self.servers: list[Server] = []

    def start(self) -> None:
        deployment = wiring.open_deployment(self.settings)
        deployment.store.migrate()
        desk = wiring.operations(deployment)
        known = access(self.settings, deployment.store)
        parts = (self.settings, deployment.store, desk, known)
        self.servers = [
            build_server(*parts),
            build_tls_server(*parts, certificate_files(self.settings)),
        ]
        for server in self.servers:
            server.start()
            server.set_serving(True)

    @contextlib.contextmanager
    def connected(self, peer: Pair | None) -> Iterator[grpc.Channel]:
        """A connection over mutual TLS as this peer, or without a certificate."""
        key, chain = (peer.key, peer.certificate) if peer else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.certificate, key, chain)
        with grpc.secure_channel(self.servers[1].address, credentials) as channel:
            yield channel

    def gateway(self, **names: Any) -> Pair:
        return self.authority.peer(**(names or {"uris": [GATEWAY]}))


@pytest.fixture
def make(tmp_path: Path, lines: LogLines) -> Iterator[Any]:
    made: list[Mesh] = []

    def make_one(**settings: Any) -> Mesh:
        mesh = Mesh(tmp_path, **settings)
        made.append(mesh)
        mesh.start()
        return mesh

    yield make_one
    for mesh in made:
        for server in mesh.servers:
            server.stop(0)


def images(channel: grpc.Channel, *metadata: tuple[str, str]) -> Any:
    """List the images of the folder that Alice may look into."""
    request = image_service_pb2.ListImagesRequest(folder_id="folder")
    stub = image_service_pb2_grpc.ImageServiceStub(channel)
    return stub.List(request, metadata=metadata, timeout=PATIENCE_SECONDS)


def denied(channel: grpc.Channel, *metadata: tuple[str, str]) -> Refused:
    answer = refused(lambda: images(channel, *metadata))
    assert (answer.code, answer.message) == (grpc.StatusCode.UNAUTHENTICATED, TEXT)
    return answer


def test_a_listed_peer_says_who_calls(make: Any, lines: LogLines) -> None:
    mesh = make()
    for names in ({"uris": [GATEWAY]}, {"names": ["gateway.example"]}):
        with mesh.connected(mesh.gateway(**names)) as channel:
            assert not images(channel, ALICE).images
            assert lines.calls()[-1]["subject"] == "alice"
            # What a client says of itself by other means is of no interest.
            assert not images(channel, ALICE, ("authorization", "Bearer t1.a.b")).images
            bob = refused(lambda: images(channel, ("x-darkroom-subject", "userAccount:bob")))
            assert bob.code is grpc.StatusCode.PERMISSION_DENIED
            team = ("x-darkroom-groups", "other, team")
            assert not images(channel, ("x-darkroom-subject", "federatedUser:bob"), team).images


def test_nobody_else_is_believed(make: Any, lines: LogLines) -> None:
    mesh = make()
    for names in (
        {"uris": ["spiffe://cluster.local/ns/other/sa/gateway"]},
        {"uris": [f"{GATEWAY}/more"]},
        {"names": ["gateway.example.com"]},
        # A name of one kind is none of the other.
        {"names": [GATEWAY]},
        {"uris": ["https://gateway.example"]},
    ):
        with mesh.connected(mesh.gateway(**names)) as channel:
            denied(channel, ALICE)
    assert lines.calls()[-1]["denial"] == "no certificate of a listed peer"
    # Without a certificate, or with one of somebody else, there is no connection.
    for peer in (None, Authority("stranger").peer(uris=[GATEWAY])):
        with mesh.connected(peer) as channel:
            answer = refused(lambda: images(channel, ALICE))
            assert answer.code is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(mesh.servers[0].address) as channel:
        denied(channel, ALICE)
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == 1


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("x-darkroom-subject", ""),),
        (("x-darkroom-subject", "alice"),),
        (("x-darkroom-subject", "userAccount:"),),
        (("x-darkroom-subject", "group:team"),),
        (("x-darkroom-subject", "system:allUsers"),),
        (("x-darkroom-subject", "userAccount:al ice"),),
        (("x-darkroom-subject", f"userAccount:{'x' * 101}"),),
        (ALICE, ("x-darkroom-subject", "userAccount:bob")),
        (ALICE, ALICE),
        (ALICE, ("x-darkroom-groups", "a b")),
        (ALICE, ("x-darkroom-groups", "a"), ("x-darkroom-groups", "b")),
        (("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/a/sa/robot"),),
    ],
)
def test_headers_that_say_nothing_clear_are_refused(make: Any, metadata: Any) -> None:
    mesh = make()
    with mesh.connected(mesh.gateway()) as channel:
        denied(channel, *metadata)


ROBOT = "spiffe://cluster.local/ns/a/sa/robot"


@pytest.mark.parametrize(
    ("text", "believed"),
    [
        (f"By=spiffe://x;Hash=ab;URI={ROBOT}", True),
        (f'By=spiffe://x;Hash=ab;Subject="CN=a,O=\\"b;c\\"";URI={ROBOT};DNS=a', True),
        (f"URI=spiffe://client/wrote/this,By=x;URI={ROBOT}", True),
        (f'URI="{ROBOT}"', True),
        (f"URI={ROBOT},By=x;URI=spiffe://cluster.local/ns/a/sa/other", False),
        (f"URI={ROBOT},By=x", False),
        (f"URI={ROBOT},", False),
        (f"URI={ROBOT};URI=spiffe://second", False),
        (f'Subject="URI={ROBOT}"', False),
        (f'Subject="a;URI={ROBOT}', False),
        ("URI=", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_the_forwarded_certificate_names_a_service_account(
    make: Any, text: str, believed: bool
) -> None:
    mesh = make(mesh_subject_header="x-forwarded-client-cert", mesh_groups_header="")
    with mesh.connected(mesh.gateway()) as channel:
        answer = None
        try:
            images(channel, ("x-forwarded-client-cert", text))
        except grpc.RpcError as error:
            answer = error.code()
        refusals = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        assert (answer is None) if believed else (answer in refusals)


def test_tokens_are_somebody_elses_to_give(make: Any) -> None:
    mesh = make()
    with mesh.connected(mesh.gateway()) as channel:
        stub = iam_token_service_pb2_grpc.IamTokenServiceStub(channel)
        request = iam_token_service_pb2.CreateIamTokenRequest(jwt="a.b.c")
        assert refused(lambda: stub.Create(request)).code is grpc.StatusCode.UNIMPLEMENTED


def test_authorities_of_clients_change_without_a_restart(make: Any, tmp_path: Path) -> None:
    mesh = make()
    other = Authority("other")
    newcomer = other.peer(uris=[GATEWAY])
    path = tmp_path / "clients.pem"
    path.write_bytes(mesh.authority.certificate + other.certificate)

    def believed(peer: Pair) -> bool:
        with mesh.connected(peer) as channel:
            try:
                images(channel, ALICE)
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                assert code is grpc.StatusCode.UNAVAILABLE
                return False
            return True

    until(lambda: believed(newcomer), "the new authority is trusted")
    path.write_bytes(other.certificate)
    until(lambda: not believed(mesh.gateway()), "the old authority is trusted no more")
    path.write_bytes(b"nonsense")
    assert believed(newcomer)


@pytest.mark.parametrize("missing", ["TLS_LISTEN", "TLS_CLIENT_CA", "MESH_PEER"])
def test_what_the_mode_needs_is_asked_for(missing: str) -> None:
    environment = {
        "DARKROOM_AUTH_MODE": "mesh",
        "DARKROOM_TLS_CLIENT_CA": "ca.pem",
        "DARKROOM_MESH_PEER": GATEWAY,
        f"DARKROOM_{missing}": "",
    }
    with pytest.raises(SettingError, match=f"{missing.lower()}: is needed for --auth-mode mesh"):
        load(environment=environment)
