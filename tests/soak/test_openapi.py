"""A public fuzzer with nothing but the published OpenAPI document and a token runs it.

Against the gateway before a server that asks who calls: the fuzzer also leaves the token out, where
the document says that one is needed, and must be refused.
"""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from clients.environments import environment
from clients.gateways import gateway
from deriving import Deriving
from installation import Installation
from object_server import ObjectServer
from published import OFFERS

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
SCHEMATHESIS = "schemathesis==4.32.5"
MIB = 1 << 20
EACH = 8
"""How many images, disks and snapshots there are to be found."""
UNGUESSABLE = ("UpdateAccessBindings", "CreateForServiceAccount", "Revoke")
"""What succeeds with names of roles, or with ids and tokens that end: now and then."""
RUN_SECONDS = 400


def known(darkroom: Installation, url: str) -> dict[str, list[str]]:
    """Things that exist, by the names of the dictionaries of the configuration."""
    operation = darkroom.create(url, family="family")
    darkroom.done(operation.id)
    deriving = Deriving(darkroom)
    first = deriving.image(disk_id=deriving.disk(size=64 * MIB).id, family="family")

    def made() -> dict[str, list[str]]:
        disks = [deriving.disk(size=64 * MIB, image_id=first.id).id for _ in range(EACH)]
        return {
            "images": [deriving.image(image_id=first.id).id for _ in range(EACH)],
            "disks": disks,
            "snapshots": [deriving.snapshot(disk_id=each).id for each in disks],
        }

    return {
        **made(),
        **{f"doomed_{name}": ids for name, ids in made().items()},
        "operations": [operation.id],
        "folders": ["folder"],
        "families": ["family"],
        "clouds": ["b1gdarkroom000000000"],
        "urls": [url],
        "names": [f"name-{number}" for number in range(1000)],
    }


def made_known(darkroom: Installation) -> tuple[str, dict[str, list[str]]]:
    """Start again, asking who calls; a token that may do everything, and dictionaries."""
    darkroom.kill(signal.SIGTERM)
    darkroom.settings["DARKROOM_AUTH_MODE"] = "iam"
    darkroom.start()

    def account(*arguments: str) -> str:
        finished = darkroom.command("account", *arguments)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.strip()

    static = account("create", "root", "--user", "--role", "admin")
    robot = json.loads(account("create", "robot"))
    revoked = [account("token", "robot") for _ in range(EACH)]
    token = account("token", "root")
    return token, {
        "static_tokens": [static],
        "accounts": [robot["service_account_id"]],
        "tokens": revoked,
    }


@pytest.mark.timeout(RUN_SECONDS + 120)
def test_schemathesis_finds_nothing(
    darkroom: Installation, source: ObjectServer, disk: Path, tmp_path: Path
) -> None:
    program = environment("schemathesis", [SCHEMATHESIS]).with_name("schemathesis")
    configuration = shutil.copy(CONFIGURATION, tmp_path)
    things = known(darkroom, source.url(disk.name))
    token, identities = made_known(darkroom)
    for name, values in (things | identities).items():
        lines = "".join(f'"{value}"\n' for value in values)
        (tmp_path / f"{name}.dict").write_text(lines)
    with gateway(tmp_path, darkroom.address) as front:
        finished = subprocess.run(
            [
                *(program, "--config-file", configuration, "run", "--no-color"),
                *("--header", f"Authorization: Bearer {token}"),
                f"http://{front.address}/openapi.json",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    tested = re.search(r"Tested: (\d+)", finished.stdout)
    assert tested and int(tested[1]) == len(OFFERS), finished.stdout
    succeeded = {
        line["method"].rpartition(".")[2]
        for line in darkroom.log_lines()
        if line["event"] == "rpc" and line["code"] == "OK"
    }
    # It got through to the methods instead of being refused at the door.
    guessable = {
        f"{each.service}/{each.method}"
        for each in OFFERS
        if each.is_served and not each.method.startswith(UNGUESSABLE)
    }
    assert guessable <= succeeded
