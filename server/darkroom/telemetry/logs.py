"""Log lines: one JSON object, or line of text, per record on standard error; no URL's query in it.

A line has `time` (RFC 3339, UTC), `level`, `logger` and `event` (the message), then the fields of
the surrounding `context`, then those of the call's `extra={"fields": {...}}`, and `exception` where
one was logged.
"""

import contextlib
import json
import logging
import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any

_STANDARD_ERROR = 2
_PACKAGE = "darkroom"
_DEEPEST = 8
"""Nesting of a field's value beyond which it is written as text: a line always ends."""

_QUERY = re.compile(
    r"""
      (?P<url> [a-z][a-z0-9+.-]*:// [^\s?"'<>]* ) \? [^\s"'<>]*   # any query of a whole URL
    | \? [^\s?&="'<>]+ = [^\s"'<>]*                               # `?name=value` without the URL
    | X-(?:Amz|Goog)-[a-z-]+ (?: = | %3D ) [^\s&"'<>]*          # one signed parameter by itself
    """,
    re.IGNORECASE | re.VERBOSE,
)

_LONGEST_DIRECT_LINE_BYTES = 4096
"""POSIX's least PIPE_BUF: what one write to a pipe never mixes with another's."""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode
_context: ContextVar[Mapping[str, Any]] = ContextVar("log_context", default={})  # noqa: B039, never changed in place
_log = logging.getLogger(__name__)
_formatter: "JsonFormatter | None" = None
"""That of `configure`; None before it."""


@contextlib.contextmanager
def context(**fields: Any) -> Iterator[None]:
    """Add fields to every line that this thread logs inside the block."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def without_query(text: str) -> str:
    """The text with the query of whatever looks like a URL cut off.

    A safety net below the code that does not log such text: the query of a pre-signed URL is a
    password to the object.
    """
    if "?" not in text and "X-" not in text and "x-" not in text:
        return text
    return _QUERY.sub(lambda match: match["url"] or "", text)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON, without the line's end."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._second_text = ""

    def format(self, record: logging.LogRecord) -> str:
        exception = ""
        if record.exc_info and record.exc_info[1] is not None:
            exception = "".join(traceback.format_exception(record.exc_info[1]))
        level, event = record.levelname.lower(), record.getMessage()
        fields = record.__dict__.get("fields", {})
        return self.line(record.created, level, record.name, event, fields, exception)

    def line(
        self,
        seconds: float,
        level: str,
        logger: str,
        event: str,
        fields: Mapping[str, Any],
        exception: str = "",
    ) -> str:
        """One line of what happened `seconds` after the epoch."""
        own = {"time": self._time(seconds), "level": level, "logger": logger, "event": event}
        # The record's own keys come first and win.
        line = {**own, **_context.get(), **fields, **own}
        if exception:
            line["exception"] = exception
        try:
            text = _encode(line)
        except (TypeError, ValueError, RecursionError):
            return _encode(_plain(line))
        # A backslash may hide where a value ends, so the values are cleaned, not the line.
        return _encode(_plain(line)) if without_query(text) != text else text

    def _time(self, seconds: float) -> str:
        whole = int(seconds)
        if whole != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._second = whole
        return f"{self._second_text}.{int((seconds - whole) * 1e6):06d}Z"


class TextFormatter(JsonFormatter):
    """The same for people: time, level, event, then `name=value`, and a stack on lines below."""

    def line(
        self,
        seconds: float,
        level: str,
        logger: str,
        event: str,
        fields: Mapping[str, Any],
        exception: str = "",
    ) -> str:
        shown = {**_context.get(), **fields}
        words = [self._time(seconds), f"{level.upper():8}{_one_line(without_query(event))}"]
        words += [f"{_one_line(str(name))}={_word(value)}" for name, value in shown.items()]
        words.append(f"({logger})")
        text = " ".join(words)
        return f"{text}\n{without_query(exception).rstrip()}" if exception else text


def _one_line(text: str) -> str:
    return text if text.isprintable() else _encode(text)


def _word(value: Any) -> str:
    plain = _plain(value)
    bare = isinstance(plain, str) and plain.isprintable() and not set(plain) & set(' "=')
    return str(plain) if bare and plain else _encode(plain)


def _plain(value: Any, depth: int = 0) -> Any:
    """The value in types that JSON has, every text in it without queries."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {without_query(str(key)): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(item, depth + 1) for item in value]
        return without_query(str(value))
    return "..."


class StandardErrorHandler(logging.Handler):
    """Writes each line with one system call, straight to file descriptor 2.

    A line that cannot be written is dropped: a full disk or a closed pipe behind standard error
    must not fail the call that is being logged.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode() + b"\n"
        except Exception:
            # A field whose text cannot be made: say which line was lost, not why.
            lost = {
                "time": JsonFormatter()._time(record.created),
                "level": "error",
                "logger": record.name,
                "event": "a log line could not be made",
            }
            line = _encode(lost).encode() + b"\n"
        with contextlib.suppress(OSError):
            while line:
                line = line[os.write(_STANDARD_ERROR, line) :]


def often(logger: logging.Logger, event: str, fields: Mapping[str, Any]) -> None:
    """`logger.info(event, extra={"fields": fields})` for lines that come by the thousand a second.

    Once the logs are configured it makes no record and takes no lock: a short line is one system
    call, which needs none.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    if _formatter is not None:
        text = _formatter.line(time.time(), "info", logger.name, event, fields)
        line = text.encode() + b"\n"
        if len(line) <= _LONGEST_DIRECT_LINE_BYTES:
            with contextlib.suppress(OSError):
                os.write(_STANDARD_ERROR, line)
            return
    logger.info(event, extra={"fields": fields})


def configure(level: str = "info", form: str = "json") -> None:
    """Send this process's logs, warnings and uncaught exceptions to standard error.

    `level` (debug, info or warning) is that of Darkroom itself; libraries are heard from warning
    on. `form` is json or text.
    """
    global _formatter
    _formatter = TextFormatter() if form == "text" else JsonFormatter()
    handler = StandardErrorHandler()
    handler.setFormatter(_formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_PACKAGE).setLevel(level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    # None of these is written, and collecting them costs as much as the rest of a line: the
    # logging documentation's own advice on speed.
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
    logging._srcfile = None


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _log.critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is None or isinstance(arguments.exc_value, SystemExit):
        return
    fields = {"thread": arguments.thread.name if arguments.thread else ""}
    _log.critical("uncaught exception", exc_info=arguments.exc_value, extra={"fields": fields})
