"""Log lines: always one JSON object, never the query of a URL."""

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from darkroom.telemetry import logs
from log_schema import check

SIGNED = "https://s3.example/images/disk.qcow2?X-Amz-Expires=60&X-Amz-Signature=5ec7e7"
CUT = "https://s3.example/images/disk.qcow2"


def line(message: str, fields: dict[str, Any] | None = None, *arguments: Any) -> dict[str, Any]:
    """The parsed line of one record."""
    record = logging.LogRecord("darkroom.x", logging.INFO, "", 1, message, arguments, None)
    if fields is not None:
        record.fields = fields
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_line_has_time_level_logger_event_and_fields() -> None:
    before = datetime.now(UTC)
    parsed = line("phase ended", {"phase": "fetch", "bytes": 7})
    logged = datetime.fromisoformat(parsed.pop("time"))
    assert abs((logged - before).total_seconds()) < 5
    assert parsed == {
        "level": "info",
        "logger": "darkroom.x",
        "event": "phase ended",
        "phase": "fetch",
        "bytes": 7,
    }


def test_field_cannot_replace_what_every_line_has() -> None:
    assert line("event", {"event": "other", "level": "critical"})["event"] == "event"


def test_context_is_added_and_taken_away() -> None:
    with logs.context(operation_id="op", fence=1):
        with logs.context(fence=2):
            inner = line("x", {"phase": "fetch"})
        outer = line("x")
    assert (inner["operation_id"], inner["fence"], inner["phase"]) == ("op", 2, "fetch")
    assert outer["fence"] == 1
    assert "operation_id" not in line("x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SIGNED, CUT),
        (f"cannot read '{SIGNED}': 403", f"cannot read '{CUT}': 403"),
        (f"{SIGNED} and {SIGNED}", f"{CUT} and {CUT}"),
        ("GET /images/disk?versionId=1&sig=5ec7e7 HTTP/1.1", "GET /images/disk HTTP/1.1"),
        ("http://h/k?5ec7e7", "http://h/k"),
        ("after\nX-Amz-Signature=5ec7e7", "after\n"),
        ("x-amz-signature%3D5ec7e7", ""),
        ("HTTPS://H/K?a=5ec7e7", "HTTPS://H/K"),
        ("is this all right?", "is this all right?"),
        ("a?b:c", "a?b:c"),
    ],
)
def test_query_is_cut_wherever_it_stands(text: str, expected: str) -> None:
    assert line("%s", None, text)["event"] == expected
    fields = {"value": text, "list": [text], "nested": {"deep": (text,)}, text: "key"}
    parsed = line("x", fields)
    assert parsed["value"] == parsed["list"][0] == parsed["nested"]["deep"][0] == expected
    assert expected in parsed


def test_query_is_cut_from_exceptions_and_their_causes() -> None:
    try:
        try:
            raise OSError(f"no route to {SIGNED}")
        except OSError as cause:
            raise ValueError(SIGNED) from cause
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "failed", None, sys.exc_info())
    text = logs.JsonFormatter().format(record)
    assert "5ec7e7" not in text
    assert json.loads(text)["exception"].count(CUT) == 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), VALUES), st.text())
@example({"x": float("nan"), "y": {(1, 2): {3}}}, "\ud800")
def test_any_field_makes_one_line_of_strict_json(fields: dict[str, Any], message: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    record = logging.LogRecord("x", logging.INFO, "", 1, message, (), None)
    record.fields = fields
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    json.loads(text, parse_constant=refuse)


@given(st.text(), st.text(), st.sampled_from(["", "\n", "\\", '"', "\u2028"]))
def test_signature_survives_in_no_surroundings(before: str, after: str, glue: str) -> None:
    parsed = line("x", {"value": f"{before}{glue}{SIGNED}{glue}{after}"})
    assert "5ec7e7" not in parsed["value"]


def test_value_that_refers_to_itself_ends() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    assert "..." in json.dumps(line("x", {"value": value}))


CONFIGURED = f"""
import logging, threading, warnings
from darkroom.telemetry import logs

class Unprintable:
    def __str__(self):
        raise RuntimeError("never shown")

logs.configure("info")
log = logging.getLogger("darkroom.test")
log.debug("not written")
log.info("written", extra={{"fields": {{"url": "{SIGNED}"}}}})
log.info("unprintable", extra={{"fields": {{"value": Unprintable()}}}})
logging.getLogger("somelibrary").info("not written")
logging.getLogger("somelibrary").warning("a library's warning")
warnings.warn("a warning of Python", stacklevel=1)
def fail():
    raise OSError("{SIGNED}")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
logs.configure("warning")
log.info("not written")
logs.often(log, "not written", {{}})
fail()
"""


def test_configured_process_writes_nothing_but_json_lines() -> None:
    result = subprocess.run(
        [sys.executable, "-c", CONFIGURED], capture_output=True, text=True, check=False, timeout=30
    )
    lines = [json.loads(each) for each in result.stderr.splitlines()]
    for each in lines:
        check(each)
    assert [(each["level"], each["event"]) for each in lines[:4]] == [
        ("info", "written"),
        ("error", "a log line could not be made"),
        ("warning", "a library's warning"),
        ("warning", lines[3]["event"]),
    ]
    assert "a warning of Python" in lines[3]["event"]
    assert [each["event"] for each in lines[4:]] == ["uncaught exception"] * 2
    assert "5ec7e7" not in result.stderr
    assert result.stdout == ""
    assert result.returncode == 1


TEXT = logs.TextFormatter()


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"code": "OK", "duration_ms": 1.5}, "code=OK duration_ms=1.5"),
        ({"name": "two words", "quote": 'a"b'}, r'name="two words" quote="a\"b"'),
        ({"lines": "one\ntwo", "empty": ""}, r'lines="one\ntwo" empty=""'),
        ({"list": [1, 2], "none": None}, "list=[1,2] none=null"),
        ({"url": "https://host/key?X-Amz-Signature=c0ffee"}, "url=https://host/key"),
    ],
)
def test_text_is_one_line_for_people(fields: dict[str, Any], shown: str) -> None:
    with logs.context(operation_id="op"):
        text = TEXT.line(0.25, "info", "darkroom.access", "rpc", fields)
    start = "1970-01-01T00:00:00.250000Z INFO    rpc operation_id=op"
    assert text == f"{start} {shown} (darkroom.access)"


def test_text_cannot_be_forged_by_what_callers_send() -> None:
    text = TEXT.line(0, "info", "x", "rpc", {"user_agent": "a\n2026-01-01 ERROR forged\x1b[31m"})
    assert "\n" not in text and "\x1b" not in text


def test_a_stack_stands_below_its_line_of_text() -> None:
    text = TEXT.line(0, "error", "x", "call failed", {}, "Traceback\n  at https://h/k?a=b\n")
    assert text.splitlines()[1:] == ["Traceback", "  at https://h/k"]
