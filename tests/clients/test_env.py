"""`darkroom env`: its lines are evaluated by a shell, then the client runs with nothing else."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.environments import YANDEXCLOUD, environment, node, npm_packages
from clients.gateways import gateway
from installation import Installation, installation

BIN = Path(sys.executable).parent
NODE_SDK = Path(__file__).with_name("node") / "sdk"
ENDPOINT_IDS = {"compute", "iam", "operation", "resource-manager", "endpoint"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """In a folder whose name a shell would take apart."""
    folder = tmp_path_factory.mktemp("it's $HOME")
    settings = {"DARKROOM_WORKERS": "0", "DARKROOM_TLS_LISTEN": "127.0.0.1:0"}
    with installation(folder, "http://127.0.0.1:9", **settings) as running:
        yield running


def darkroom_env(served: Installation, client: str, *arguments: str) -> str:
    """The command as a user types it."""
    given = ["--data-dir", str(served.data), "--tls-listen", served.tls_address, *arguments]
    return shlex.join([str(BIN / "darkroom"), "env", client, *given])


def shell(script: str) -> "subprocess.CompletedProcess[str]":
    """Run by bash in an environment that knows of neither Darkroom nor the cloud."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def evaluated(served: Installation, client: str, then: str, *arguments: str) -> str:
    """What the shell prints that evaluates the lines and then goes on."""
    result = shell(f'eval "$({darkroom_env(served, client, *arguments)})"\n{then}')
    assert result.returncode == 0, result.stderr
    return result.stdout


def comment(served: Installation, client: str, pattern: str) -> str:
    """What a comment tells people to write."""
    printed = shell(darkroom_env(served, client)).stdout
    found = re.search(f"^# *({pattern}.*)$", printed, re.MULTILINE)
    assert found is not None, printed
    return found[1]


def grpcurl(arguments: str) -> str:
    return f"{shlex.quote(str(BIN / 'grpcurl'))} {arguments}"


# The environment is made by the first test that asks for it.
@pytest.mark.timeout(600)
def test_python_needs_only_what_the_comment_says(served: Installation, tmp_path: Path) -> None:
    construct = comment(served, "python", r"yandexcloud\.SDK")
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "import yandexcloud\n"
        "from yandex.cloud.resourcemanager.v1 import folder_service_pb2 as messages\n"
        "from yandex.cloud.resourcemanager.v1.folder_service_pb2_grpc import FolderServiceStub\n"
        f"folders = {construct}.client(FolderServiceStub)\n"
        "request = messages.GetFolderRequest(folder_id=os.environ['YC_FOLDER_ID'])\n"
        "print(folders.Get(request, timeout=20).name)\n"
    )
    python = environment("yandexcloud", [YANDEXCLOUD])
    assert evaluated(served, "python", shlex.join([str(python), str(program)])) == "default\n"


@pytest.mark.timeout(600)
def test_node_needs_only_what_the_comments_say(served: Installation, tmp_path: Path) -> None:
    construct = comment(served, "node", "const session")
    client = comment(served, "node", r"session\.client")
    (tmp_path / "node_modules").symlink_to(npm_packages(NODE_SDK))
    program = tmp_path / "program.mjs"
    program.write_text(
        'import { Session } from "@yandex-cloud/nodejs-sdk";\n'
        'import { imageService } from "@yandex-cloud/nodejs-sdk/compute-v1";\n'
        f"{construct}\n"
        f"const images = {client.replace('CLIENT', 'imageService.ImageServiceClient')};\n"
        "const request = imageService.ListImagesRequest.fromPartial("
        "{ folderId: process.env.YC_FOLDER_ID });\n"
        "console.log((await images.list(request)).images.length);\n"
    )
    assert evaluated(served, "node", shlex.join([str(node()), str(program)])) == "0\n"


def test_grpcurl_needs_no_flag(served: Installation) -> None:
    listed = evaluated(served, "grpcurl", grpcurl(comment(served, "grpcurl", "grpcurl")[8:]))
    assert "yandex.cloud.compute.v1.ImageService" in listed.split()
    untrusting = shell(grpcurl(f"{served.tls_address} list"))
    assert untrusting.returncode != 0
    assert "certificate signed by unknown authority" in untrusting.stderr


@pytest.mark.parametrize("client", ["go", "terraform"])
def test_programs_in_go_trust_and_find_the_server(served: Installation, client: str) -> None:
    # grpcurl stands for them: it is in Go and trusts what the system trusts, as they do.
    call = grpcurl('"$YC_ENDPOINT" yandex.cloud.endpoint.ApiEndpointService/List')
    found = json.loads(evaluated(served, client, call))["endpoints"]
    assert {each["id"] for each in found} >= ENDPOINT_IDS
    assert {each["address"] for each in found} == {served.tls_address}


def test_terraform_gets_all_that_its_provider_reads(served: Installation) -> None:
    names = ("YC_TOKEN", "YC_CLOUD_ID", "YC_FOLDER_ID", "YC_ZONE")
    then = "\n".join(f'printf "%s\\n" "${name}"' for name in names)
    then += '\necho "${YC_PLAINTEXT-} ${YC_INSECURE-} $YC_TERRAFORM_INITIALIZATION_SILENCE"'
    arguments = ["--folder", "folder-1=one", "--cloud-id", "cloud-1", "--zone", "zone-1"]
    result = shell(
        "export YC_PLAINTEXT=true YC_INSECURE=true\n"
        f'eval "$({darkroom_env(served, "terraform", *arguments)})"\n{then}'
    )
    assert result.stdout.splitlines() == [
        "development",
        "cloud-1",
        "folder-1",
        "zone-1",
        "  true",
    ]


def test_yc_is_configured_in_a_profile_of_its_own(served: Installation) -> None:
    # yc cannot be had here: what it would be told is written down.
    recorder = 'yc() { printf "%s|" "$@"; echo; [ "$3" != activate ]; }\n'
    result = shell(f'{recorder}eval "$({darkroom_env(served, "yc")})"\necho "$SSL_CERT_FILE"')
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "config|profile|activate|darkroom|",
        "config|profile|create|darkroom|",
        f"config|set|endpoint|{served.tls_address}|",
        "config|set|token|development|",
        "config|set|cloud-id|b1gdarkroom000000000|",
        "config|set|folder-id|b1gdefault0000000000|",
        "config|set|compute-default-zone|ru-central1-a|",
        str(served.ca_file),
    ]


def test_curl_reaches_the_gateway(served: Installation, tmp_path: Path) -> None:
    with gateway(tmp_path, served.address) as front:
        at = ["--gateway-listen", front.address]
        printed = shell(darkroom_env(served, "curl", *at)).stdout
        (call,) = re.findall(r"^# (curl .*)$", printed, re.MULTILINE)
        answer = evaluated(served, "curl", call.replace("curl ", "curl -sS --fail ", 1), *at)
    assert json.loads(answer) in ({}, {"images": []}, {"images": [], "nextPageToken": ""})


def test_what_a_client_must_trust_has_to_be_there(served: Installation, tmp_path: Path) -> None:
    missing = shell(shlex.join([str(BIN / "darkroom"), "env", "go", f"--data-dir={tmp_path}"]))
    assert missing.returncode == 1
    assert "ca.pem is made when the server first starts" in missing.stderr
    ca = shutil.copy(served.ca_file, tmp_path)
    named = shell(darkroom_env(served, "go", f"--ca={ca}", "--endpoint=images.example:443"))
    assert f"export SSL_CERT_FILE={ca}\n" in named.stdout
    assert "export YC_ENDPOINT=images.example:443\n" in named.stdout
    unknown = shell(darkroom_env(served, "go", "--tls-listen=127.0.0.1:0"))
    assert unknown.returncode == 2
    assert "name it with --endpoint" in unknown.stderr
