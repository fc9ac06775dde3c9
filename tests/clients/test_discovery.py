"""What clients ask before their first real call: endpoints, tokens, clouds and folders."""

import base64
import json
import re
from collections.abc import Iterator

import grpc
import pytest

from darkroom.config import SettingError, load
from darkroom_pb.yandex.cloud.endpoint import (
    api_endpoint_service_pb2,
    api_endpoint_service_pb2_grpc,
)
from darkroom_pb.yandex.cloud.iam.v1 import iam_token_service_pb2, iam_token_service_pb2_grpc
from darkroom_pb.yandex.cloud.resourcemanager.v1 import (
    cloud_service_pb2,
    cloud_service_pb2_grpc,
    folder_service_pb2,
    folder_service_pb2_grpc,
)
from installation import Installation, installation

TOKEN = r"t1\.[A-Z0-9a-z_-]+[=]{0,2}\.[A-Z0-9a-z_-]{86}[=]{0,2}"
"""The shape that the cloud documents for its tokens (cloud docs)."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("discovery")
    settings = {
        "DARKROOM_WORKERS": "0",
        "DARKROOM_TLS_LISTEN": "127.0.0.1:0",
        "DARKROOM_TLS_ADVERTISE": "images.example:443",
        "DARKROOM_CLOUD_ID": "cloud-1",
        "DARKROOM_FOLDER": "folder-1=one folder-2=two folder-3=three",
    }
    with installation(folder, "http://127.0.0.1:9", **settings) as running:
        yield running


def channel(served: Installation) -> grpc.Channel:
    assert served.channel is not None
    return served.channel


def endpoints(channel: grpc.Channel) -> dict[str, str]:
    stub = api_endpoint_service_pb2_grpc.ApiEndpointServiceStub(channel)
    reply = stub.List(api_endpoint_service_pb2.ListApiEndpointsRequest(page_size=100))
    assert reply.next_page_token == ""
    return {each.id: each.address for each in reply.endpoints}


def test_endpoints_come_on_one_page(served: Installation) -> None:
    stub = api_endpoint_service_pb2_grpc.ApiEndpointServiceStub(channel(served))
    request = api_endpoint_service_pb2.ListApiEndpointsRequest(page_size=1, page_token="any")
    reply = stub.List(request)
    assert len(reply.endpoints) > 1
    assert reply.next_page_token == ""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_every_service_is_where_the_caller_found_discovery(served: Installation, host: str) -> None:
    address = f"{host}:{served.address.rpartition(':')[2]}"
    with grpc.insecure_channel(address) as channel:
        found = endpoints(channel)
    assert set(found.values()) == {address}
    assert {
        *("compute", "endpoint", "iam", "operation", "resource-manager", "resourcemanager"),
        *("storage", "storage-api", "vpc"),
    } == set(found)


def test_behind_a_proxy_the_address_is_the_one_that_the_proxy_was_asked_for(
    served: Installation,
) -> None:
    options = [("grpc.default_authority", "images.example:8443")]
    with grpc.insecure_channel(served.address, options=options) as channel:
        assert set(endpoints(channel).values()) == {"images.example:8443"}


def test_a_listener_can_advertise_another_address(served: Installation) -> None:
    ca = (served.ca_file).read_bytes()
    address = served.tls_endpoint
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as channel:
        assert set(endpoints(channel).values()) == {"images.example:443"}


def test_one_endpoint_is_found_by_its_id(served: Installation) -> None:
    stub = api_endpoint_service_pb2_grpc.ApiEndpointServiceStub(channel(served))
    found = stub.Get(api_endpoint_service_pb2.GetApiEndpointRequest(api_endpoint_id="compute"))
    assert (found.id, found.address) == ("compute", served.address)
    with pytest.raises(grpc.RpcError) as missing:
        stub.Get(api_endpoint_service_pb2.GetApiEndpointRequest(api_endpoint_id="nothing"))
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND


def token_of(served: Installation, **identity: str) -> str:
    stub = iam_token_service_pb2_grpc.IamTokenServiceStub(channel(served))
    reply = stub.Create(iam_token_service_pb2.CreateIamTokenRequest(**identity))
    assert reply.expires_at.seconds > 0
    return str(reply.iam_token)


def jwt(header: object, payload: object) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()) for each in (header, payload)]
    return ".".join([*(part.rstrip(b"=").decode() for part in parts), "c2lnbmF0dXJl"])


HEADER = {"alg": "PS256", "typ": "JWT", "kid": "key"}
CLAIMS = {"iss": "aje-account", "aud": "https://iam.example/iam/v1/tokens", "exp": 1, "iat": 0}


def creator(served: Installation, authorization: str) -> str:
    """Who an operation was created by, under this header."""
    metadata = (("authorization", authorization),) if authorization else ()
    return str(served.create("http://127.0.0.1:9/o", metadata=metadata).created_by)


@pytest.mark.parametrize(
    "audience",
    ["https://iam.example/iam/v1/tokens", ["https://one.example", "https://two.example"]],
)
def test_a_service_account_gets_a_token_that_names_it(
    served: Installation, audience: object
) -> None:
    token = token_of(served, jwt=jwt(HEADER, {**CLAIMS, "aud": audience}))
    assert re.fullmatch(TOKEN, token)
    assert creator(served, f"Bearer {token}") == "aje-account"


def test_a_service_account_gets_a_token_by_its_id(served: Installation) -> None:
    stub = iam_token_service_pb2_grpc.IamTokenServiceStub(channel(served))
    request = iam_token_service_pb2.CreateIamTokenForServiceAccountRequest(
        service_account_id="aje-other"
    )
    token = stub.CreateForServiceAccount(request).iam_token
    assert creator(served, f"Bearer {token}") == "aje-other"


def test_an_oauth_token_gets_one_that_does_not_show_it(served: Installation) -> None:
    token = token_of(served, yandex_passport_oauth_token="y0_secret")
    assert re.fullmatch(TOKEN, token)
    name = creator(served, f"bearer {token}")
    assert name.startswith("oauth-") and "secret" not in name
    assert creator(served, f"Bearer {token}") == name


def test_without_a_token_of_ours_the_caller_is_anonymous(served: Installation) -> None:
    token = token_of(served, jwt=jwt(HEADER, CLAIMS))
    changed = token[:-2] + ("AA" if not token.endswith("AA") else "BB")
    for authorization in ("", "Bearer", "Bearer t1.foreign.token", f"Bearer {changed}", token):
        assert creator(served, authorization) == "anonymous"


@pytest.mark.parametrize(
    "given",
    [
        "no token at all",
        "a.b.c",
        jwt([], []),
        jwt({**HEADER, "alg": "RS256"}, CLAIMS),
        jwt({"alg": "PS256"}, CLAIMS),
        jwt(HEADER, {**CLAIMS, "iss": ""}),
        jwt(HEADER, {**CLAIMS, "iss": "x" * 51}),
        jwt(HEADER, {**CLAIMS, "aud": {}}),
    ],
)
def test_what_is_no_service_account_token_is_refused_by_name(
    served: Installation, given: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        token_of(served, jwt=given)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "jwt" in str(refused.value.details())


def test_folders_and_clouds_are_found(served: Installation) -> None:
    clouds = cloud_service_pb2_grpc.CloudServiceStub(channel(served))
    (cloud,) = clouds.List(cloud_service_pb2.ListCloudsRequest()).clouds
    assert cloud.id == "cloud-1"
    assert clouds.Get(cloud_service_pb2.GetCloudRequest(cloud_id="cloud-1")) == cloud
    folders = folder_service_pb2_grpc.FolderServiceStub(channel(served))
    request = folder_service_pb2.ListFoldersRequest(cloud_id="cloud-1", page_size=2)
    first = folders.List(request)
    request.page_token = first.next_page_token
    second = folders.List(request)
    assert [each.name for each in (*first.folders, *second.folders)] == ["one", "two", "three"]
    assert second.next_page_token == ""
    by_name = folder_service_pb2.ListFoldersRequest(cloud_id="cloud-1", filter='name = "two"')
    assert [each.id for each in folders.List(by_name).folders] == ["folder-2"]
    found = folders.Get(folder_service_pb2.GetFolderRequest(folder_id="any"))
    assert (found.id, found.cloud_id) == ("any", "cloud-1")
    nowhere = folder_service_pb2.ListFoldersRequest(cloud_id="other")
    assert list(folders.List(nowhere).folders) == []
    for seen in (cloud, found, *first.folders):
        filled = {field.name for field, _ in seen.ListFields()}
        assert filled <= {"id", "name", "cloud_id", "status"}


def test_listings_of_clouds_and_folders_are_by_name_and_in_pages(served: Installation) -> None:
    clouds = cloud_service_pb2_grpc.CloudServiceStub(channel(served))
    folders = folder_service_pb2_grpc.FolderServiceStub(channel(served))
    request = cloud_service_pb2.ListCloudsRequest(organization_id="any", filter='name = "darkroom"')
    assert len(clouds.List(request).clouds) == 1
    request.filter = 'name != "darkroom"'
    assert len(clouds.List(request).clouds) == 0
    for wrong, field in (
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "made up"}, "page_token"),
        ({"filter": 'status = "ACTIVE"'}, "filter"),
    ):
        for listed in (
            lambda given: clouds.List(cloud_service_pb2.ListCloudsRequest(**given)),
            lambda given: folders.List(
                folder_service_pb2.ListFoldersRequest(cloud_id="cloud-1", **given)
            ),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                listed(wrong)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert field in str(refused.value.details())


@pytest.mark.parametrize("given", ["", "x" * 51])
def test_a_cloud_or_folder_must_be_named(served: Installation, given: str) -> None:
    clouds = cloud_service_pb2_grpc.CloudServiceStub(channel(served))
    folders = folder_service_pb2_grpc.FolderServiceStub(channel(served))
    for call in (
        lambda: clouds.Get(cloud_service_pb2.GetCloudRequest(cloud_id=given)),
        lambda: folders.Get(folder_service_pb2.GetFolderRequest(folder_id=given)),
        lambda: folders.List(folder_service_pb2.ListFoldersRequest(cloud_id=given)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_bad_folder_setting_is_named() -> None:
    with pytest.raises(SettingError, match="folder: must be ID=NAME"):
        load(environment={"DARKROOM_FOLDER": "nameless"})
