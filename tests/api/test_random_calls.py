"""Whatever is sent to whichever method, the answer is never a defect of the server."""

import logging
import os
import random
from pathlib import Path

import grpc
import pytest

from api.accounts import CLOUD, Accounts
from api.conftest import LogLines, Starter
from darkroom.api.access.modes import issuer
from darkroom.config import Settings
from fuzz.calls import Storm

CALLS = 600


@pytest.mark.parametrize("mode", ["none", "iam"])
def test_no_request_is_answered_with_a_defect(
    mode: str, start: Starter, tmp_path: Path, lines: LogLines
) -> None:
    accounts = Accounts(tmp_path / "access")
    accounts.service_account("ci")
    accounts.grant("admin", CLOUD, "serviceAccount:ci")
    settings = Settings(data_dir=tmp_path)
    server, (token, _) = start(auth_mode=mode), issuer(settings).issue("ci")
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    with grpc.insecure_channel(server.address) as channel:
        storm = Storm(channel, seed, token)
        storm.blow(CALLS)
    repeat = f"again with SEED={seed}"
    assert storm.defects == [], repeat
    assert [each for each in lines.records if each.levelno >= logging.ERROR] == [], repeat
    assert [each for each in lines.records if each.exc_info] == [], repeat
    # Requests that make sense are among them, or this has shown nothing.
    assert storm.codes["OK"] > CALLS / 60 and storm.codes["INVALID_ARGUMENT"] > CALLS / 60, repeat
