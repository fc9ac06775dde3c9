"""The interceptors: one list, in order, around every handler.

They are put together once per method when the server is built. A handler cannot opt out: whether
a method needs an identity, a right and a place under the load limit is the permission table's word.
"""

import logging
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from darkroom.api.arrival import CROWDED, LATE, Alarms, NoRequest
from darkroom.api.authentication import Authenticator, Authorizer
from darkroom.api.calls import Call, Handler, Method
from darkroom.api.overload_log import OVERLOADED, OverloadLog
from darkroom.api.permissions import PUBLIC
from darkroom.api.status import Refusal, answer, refusal
from darkroom.api.validation import Report, Validator
from darkroom.domain import errors
from darkroom.domain.errors import Failure
from darkroom.telemetry.instruments import NO_INSTRUMENTS, Instruments
from darkroom.telemetry.logs import often

if TYPE_CHECKING:
    from darkroom.telemetry.metrics import RpcFigures

log = logging.getLogger(__name__)
access_log = logging.getLogger("darkroom.access")

Behaviour = Callable[..., Any]
"""What grpcio calls: with a request (or an iterator of them) and the call's context."""

_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"00-(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,64}")
_MAX_SHOWN_CHARACTERS = 120
"""Of what callers choose freely: user agents, names of methods that do not exist."""
_PATIENCE_SECONDS = 0.5
"""How long a call may wait for its turn under the load limit before it is refused."""
_WAITING_PER_PLACE = 4
"""Calls that may wait so, for each that may run: more could not have their turn in time anyway."""
_ENTRY_BYTES = 32
"""What each entry of metadata counts beside its name and value (RFC 9113, 6.5.2)."""


class Interceptors:
    """All of them, with what they need; `ordered` is their order, outermost first."""

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        *,
        max_running: int,
        request_seconds: float,
        max_request_bytes: int = sys.maxsize,
        max_metadata_bytes: int = sys.maxsize,
        instruments: Instruments = NO_INSTRUMENTS,
    ) -> None:
        """`request_seconds` is only shown to users: the pool of the server keeps the limit."""
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._validator = Validator()
        self._request_seconds = request_seconds
        self._max_request_bytes = max_request_bytes
        self._max_metadata_bytes = max_metadata_bytes
        self.overload_log = OverloadLog()
        self._refusing = threading.Event()
        self._running: set[Call] = set()
        self._metrics, self._tracing = instruments.metrics, instruments.tracing
        self._places = _Places(max_running)
        # Writers all wait for one lock; if whoever holds it is stuck, readers still get through.
        self._writing_places = _Places(max(1, max_running // 2))
        self.ordered: tuple[tuple[str, Callable[[Method, Handler], Handler]], ...] = (
            ("request id", self._request_id),
            ("trace", self._trace),
            ("access log", self._access_log),
            ("figures", self._figures),
            ("errors", self._errors),
            ("admission", self._admission),
            ("drain", self._drain),
            ("authentication", self._authentication),
            ("load limit", self._load_limit),
            ("validation", self._validation),
            ("authorisation", self._authorisation),
        )

    @property
    def running(self) -> int:
        """Calls that were not refused and have no answer yet; health and reflection left out."""
        return len(self._running)

    def refuse_new_calls(self) -> None:
        """From now on: the server is shutting down. Health and reflection go on."""
        self._refusing.set()

    def around(self, method: Method, handler: Handler) -> Behaviour:
        """The handler with all interceptors, as grpcio calls it: bytes in, bytes out."""
        inner = handler
        for _, interceptor in reversed(self.ordered):
            inner = interceptor(method, inner)

        def behave(request: Any, context: grpc.ServicerContext) -> Any:
            if request.__class__ is NoRequest and not context.is_active():
                return b""  # the client is gone: nobody asks, nobody hears
            outcome = inner(Call(request, context))
            if outcome.__class__ is Refusal:
                answer(context, outcome)
            return outcome

        return behave

    def around_stream(self, method: Method, behave: Behaviour, alarms: Alarms) -> Behaviour:
        """A public bidirectional stream with request id and access log.

        It is cancelled when the client has been silent for as long as `alarms` allows.
        """
        assert method.rule == PUBLIC, "streams have no other interceptors yet"

        def behave_and_log(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            self.watch_stream(method, context)
            return iter(behave(_without_long_silence(requests, context, alarms), context))

        return behave_and_log

    def watch_stream(self, method: Method, context: grpc.ServicerContext) -> Call:
        """Give a stream its ids at its start, its log line and its figures at its end."""
        call = Call(None, context)
        context.send_initial_metadata(identify(call))
        started = time.perf_counter()
        figures = self._figures_of(method)
        if figures is not None:
            figures.started()

        def ended() -> None:
            code = context.code()  # type: ignore[attr-defined]
            name = code.name if code else "OK"
            seconds = time.perf_counter() - started
            write_line(method.path, call, seconds, name)
            if figures is not None:
                figures.ended(name, seconds)

        if not context.add_callback(ended):
            ended()
        return call

    # --- in order ---------------------------------------------------------------------------------

    def _request_id(self, method: Method, inner: Handler) -> Handler:
        def handle(call: Call) -> Any:
            headers = identify(call)
            outcome = inner(call)
            if outcome.__class__ is Refusal and outcome.code is grpc.StatusCode.UNAVAILABLE:
                # Everything in one frame: a proxy repeats no call whose headers it has passed on.
                return replace(outcome, trailers=headers + outcome.trailers)
            call.context.send_initial_metadata(headers + call.headers)
            return outcome

        return handle

    def _trace(self, method: Method, inner: Handler) -> Handler:
        if self._tracing is None or method.request is None:
            return inner
        from darkroom.telemetry import tracing

        wanted, span_of, path = self._tracing.wanted, self._tracing.call, method.path

        def handle(call: Call) -> Any:
            if not wanted(call.traceparent):
                return inner(call)
            with span_of(path, call.traceparent, call.trace_id) as span:
                call.traceparent = tracing.traceparent_of(span)
                call.trace_id = call.traceparent[3:35]
                outcome = inner(call)
                tracing.end(
                    span,
                    outcome.code.name if outcome.__class__ is Refusal else "OK",
                    request_id=call.request_id,
                    operation_id=call.operation_id,
                    resource_id=call.resource_id,
                )
                return outcome

        return handle

    def _access_log(self, method: Method, inner: Handler) -> Handler:
        path, clock = method.path, time.perf_counter
        has_own_line = self.overload_log.has_own_line

        def handle(call: Call) -> Any:
            started = clock()
            outcome = inner(call)
            if outcome.__class__ is Refusal:
                if outcome.reason != OVERLOADED or has_own_line(path):
                    write_line(path, call, clock() - started, outcome.code.name, outcome.reason)
            else:
                write_line(path, call, clock() - started, "OK")
            return outcome

        return handle

    def _figures(self, method: Method, inner: Handler) -> Handler:
        figures = self._figures_of(method)
        if figures is None:
            return inner
        started_one, ended, clock = figures.started, figures.ended, time.perf_counter

        def handle(call: Call) -> Any:
            started_one()
            started = clock()
            outcome = inner(call)
            code = outcome.code.name if outcome.__class__ is Refusal else "OK"
            ended(code, clock() - started)
            return outcome

        return handle

    def _figures_of(self, method: Method) -> "RpcFigures | None":
        if self._metrics is None:
            return None
        if method.request is None:
            # Callers choose the names of methods that do not exist: one series for all of them.
            return self._metrics.rpc("unary", "unknown", "unknown")
        kind = "bidi_stream" if method.client_streaming else "server_stream"
        service = method.path[1:].rpartition("/")[0]
        return self._metrics.rpc(kind if method.server_streaming else "unary", service, method.name)

    def _errors(self, method: Method, inner: Handler) -> Handler:
        def handle(call: Call) -> Any:
            try:
                return inner(call).SerializeToString()
            except Failure as failure:
                return refusal(failure, call.request_id)
            except Exception:
                fields = {"method": method.path, "request_id": call.request_id}
                log.exception("call failed", extra={"fields": fields})
                return refusal(errors.internal(), call.request_id)

        return handle

    def _admission(self, method: Method, inner: Handler) -> Handler:
        """Refuse what is too much before anything is done for it."""
        max_request_bytes, max_metadata_bytes = self._max_request_bytes, self._max_metadata_bytes

        def handle(call: Call) -> Any:
            if call.request is CROWDED:
                raise errors.overloaded()
            if call.request.__class__ is bytes and len(call.request) > max_request_bytes:
                raise errors.request_too_large(len(call.request), max_request_bytes)
            size_bytes = 0
            for key, value in call.metadata.items():
                size_bytes += len(key) + len(value) + _ENTRY_BYTES
            if size_bytes > max_metadata_bytes:
                raise errors.metadata_too_large(size_bytes, max_metadata_bytes)
            return inner(call)

        return handle

    def _drain(self, method: Method, inner: Handler) -> Handler:
        if method.rule == PUBLIC:
            return inner
        refusing, running = self._refusing.is_set, self._running

        def handle(call: Call) -> Any:
            # Before the look: whoever waits for the last call must not miss this one.
            running.add(call)
            try:
                if refusing():
                    raise errors.shutting_down()
                return inner(call)
            finally:
                running.discard(call)

        return handle

    def _authentication(self, method: Method, inner: Handler) -> Handler:
        if method.rule == PUBLIC:
            return inner
        authenticate = self._authenticator.authenticate

        def handle(call: Call) -> Any:
            call.identity = identity = authenticate(call)
            call.subject = identity.id
            return inner(call)

        return handle

    def _load_limit(self, method: Method, inner: Handler) -> Handler:
        if method.rule == PUBLIC:
            return inner
        limited = _limited(self._places, inner)
        return _limited(self._writing_places, limited) if method.writes else limited

    def _validation(self, method: Method, inner: Handler) -> Handler:
        if method.request is None:  # an unknown method: nobody knows what its request would be
            return inner
        descriptor: Any = method.request.DESCRIPTOR
        parse, name = method.request.FromString, descriptor.full_name
        judge = self._validator.compile(descriptor)
        begins_operation = method.begins_operation

        def handle(call: Call) -> Any:
            if call.request.__class__ is not bytes:
                if call.request is LATE:
                    raise errors.request_too_late(self._request_seconds)
                raise errors.request_missing()
            try:
                call.request = parse(call.request)
            except DecodeError:
                raise errors.request_unreadable(name) from None
            report: Report = []
            judge(call.request, "", report)
            if report:
                raise errors.request_invalid(report)
            if begins_operation:
                call.idempotency_key = _idempotency_key(call)
            return inner(call)

        return handle

    def _authorisation(self, method: Method, inner: Handler) -> Handler:
        if method.rule == PUBLIC:
            return inner
        check = self._authorizer.check_of(method)
        if check is None:
            return inner

        def handle(call: Call) -> Any:
            check(call)
            return inner(call)

        return handle


class _Places:
    """Calls that may run at once, and a few more that may wait a moment for their turn."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)
        self._waiting = threading.Semaphore(count * _WAITING_PER_PLACE)
        self.release = self._free.release

    def acquire(self) -> bool:
        """False at once if too many wait already, or after the wait."""
        if self._free.acquire(blocking=False):
            return True
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._free.acquire(timeout=_PATIENCE_SECONDS)
        finally:
            self._waiting.release()


def _limited(places: _Places, inner: Handler) -> Handler:
    def handle(call: Call) -> Any:
        if not places.acquire():
            raise errors.overloaded()
        try:
            return inner(call)
        finally:
            places.release()

    return handle


def _idempotency_key(call: Call) -> str:
    """The key that was sent, or "". Raises `Failure` for one that cannot be kept."""
    if "idempotency-key" not in call.metadata:
        return ""
    metadata = call.context.invocation_metadata()
    sent = {str(value) for key, value in metadata if key == "idempotency-key"}
    key = sent.pop()
    if sent or not _IDEMPOTENCY_KEY.fullmatch(key):
        raise errors.idempotency_key_invalid()
    return key


def identify(call: Call) -> tuple[tuple[str, str], ...]:
    """Read the metadata, give the call its ids, return the headers that tell them."""
    call.metadata = metadata = dict(call.context.invocation_metadata())
    # They have to differ, not to be unguessable, and the kernel's random numbers cost a switch.
    digits = f"{random.getrandbits(256):064x}"
    own_id = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"
    wanted = metadata.get("x-request-id") or metadata.get("x-client-request-id")
    kept = isinstance(wanted, str) and _REQUEST_ID.fullmatch(wanted)
    call.request_id = str(wanted) if kept else own_id
    trace_id = digits[32:48]
    call.trace_id = trace_id
    if "traceparent" in metadata:
        match = _TRACEPARENT.fullmatch(str(metadata["traceparent"]))
        if match is not None and set(match["trace_id"]) != {"0"}:
            call.traceparent, call.trace_id = match[0], match["trace_id"]
            trace_id = call.trace_id[16:]
    return (
        ("x-request-id", call.request_id),
        ("x-server-request-id", own_id),
        ("x-server-trace-id", f"{trace_id}:{digits[48:]}:{trace_id}:1"),
    )


def write_line(path: str, call: Call, seconds: float, code: str, reason: str = "") -> None:
    """The one line that the log has about a call."""
    fields = {
        "method": path,
        "code": code,
        "duration_ms": round(seconds * 1000, 3),
        "request_id": call.request_id,
        "trace_id": call.trace_id,
        "subject": call.subject,
        "peer": call.context.peer(),
        "user_agent": str(call.metadata.get("user-agent", ""))[:_MAX_SHOWN_CHARACTERS],
    }
    if reason:
        fields["reason"] = reason
    if call.denial:
        fields["denial"] = call.denial
    if call.resource_id:
        fields["resource_id"] = call.resource_id
    if call.operation_id:
        fields["operation_id"] = call.operation_id
    often(access_log, "rpc", fields)


def _without_long_silence(
    requests: Iterator[Any], context: grpc.ServicerContext, alarms: Alarms
) -> Iterator[Any]:
    key = object()
    while True:
        alarms.set(key, context.cancel)
        try:
            request = next(requests)
        except StopIteration:
            return
        finally:
            alarms.call_off(key)
        yield request


def unknown_method(interceptors: Interceptors, path: str) -> Behaviour:
    """What answers a call of a method that does not exist."""
    shown = path[:_MAX_SHOWN_CHARACTERS]

    def handle(call: Call) -> Any:
        raise errors.method_unknown(shown)

    return interceptors.around(Method(shown), handle)
