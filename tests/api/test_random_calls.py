"""Whatever is sent to whichever method, the answer is never a defect of the server."""

import logging
import os
import random

import grpc

from api.conftest import LogLines
from darkroom.api.server import Server
from fuzz.calls import Storm

CALLS = 1000


def test_no_request_is_answered_with_a_defect(server: Server, lines: LogLines) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    with grpc.insecure_channel(server.address) as channel:
        storm = Storm(channel, seed)
        storm.blow(CALLS)
    repeat = f"again with SEED={seed}"
    assert storm.defects == [], repeat
    assert [each for each in lines.records if each.levelno >= logging.ERROR] == [], repeat
    assert [each for each in lines.records if each.exc_info] == [], repeat
    # Requests that make sense are among them, or this has shown nothing.
    assert storm.codes["OK"] > CALLS / 20 and storm.codes["INVALID_ARGUMENT"] > CALLS / 20, repeat
