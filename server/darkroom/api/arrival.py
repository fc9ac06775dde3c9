"""Calls get a thread when their request has arrived, not before.

grpcio's synchronous server gives a call a thread as soon as its headers are there, and the thread
then sleeps until the request comes: as many calls as there are threads, none of them ever sending
a request, stop such a server. Here a call waits for its request without a thread, for a bounded
time, and as one of a bounded number. It also saves a thread switch per call.

This is the only module that touches what grpcio does not document. `unsupported()` looks at all of
it; where grpcio has changed, `executor()` falls back to a plain pool, whose only protection is its
size, and says so in the log.
"""

import inspect
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

_server: Any
cygrpc: Any
try:
    _server = import_module("grpc._server")
    cygrpc = import_module("grpc._cython.cygrpc")
except ImportError:  # `unsupported` reports it
    _server = cygrpc = None

log = logging.getLogger(__name__)

MAX_ARRIVING = 128
"""Calls of one pool whose request may be on its way. gRPC's core makes room for a whole request as
soon as it is waited for, so this many of the largest are what callers can have it keep, however
many connections they open."""

_UNDISTURBED_SECONDS = 2.0
"""How long a request may be on its way before a newer call can take its place: long enough for one
that comes, short enough that calls which never send one keep nobody out."""

_LEAST_RUNNING = 128
"""Calls of one pool that may have their request and no answer yet, however few its threads."""

_LARGE_BYTES = 64 * 1024
MAX_LARGE = 64
"""Requests longer than that which are kept at once: they are rare, and memory is not for them."""

_LONGEST_PAUSE_SECONDS = 0.5

_THUNK = "_unary_request.<locals>.unary_request"
"""The function with which grpcio waits for the request of a call that has exactly one."""
_ARGUMENTS = 7


class NoRequest:
    """Stands in place of a request that did not come."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


MISSING = NoRequest("the client closed the call without a request")
LATE = NoRequest("no request within the time that is allowed")
CROWDED = NoRequest("too many calls at once; this one's request was dropped, or not waited for")


class Alarms:
    """One thread for all time limits of one length, so that setting one costs next to nothing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        # Ordered by the time they are due, since all are set for equally long. Taking an entry out
        # is what decides between an alarm and its being called off.
        self._due: OrderedDict[object, tuple[float, Callable[[], object]]] = OrderedDict()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="call-alarms", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: object, ring: Callable[[], object]) -> None:
        """Call `ring` once the time is up, on the alarms' own thread."""
        self._due[key] = (time.monotonic() + self.seconds, ring)

    def call_off(self, key: object) -> bool:
        """Whether it was in time: if so, `ring` is never called."""
        return self._due.pop(key, None) is not None

    def _run(self) -> None:
        pause_seconds = min(self.seconds / 4, _LONGEST_PAUSE_SECONDS)
        while not self._stop.wait(pause_seconds):
            now = time.monotonic()
            for key, (due, ring) in list(self._due.items()):
                if due > now:
                    break
                if self.call_off(key):
                    try:
                        ring()
                    except Exception:
                        log.exception("call alarm failed")

    def close(self) -> None:
        """End the thread; alarms that are still set never ring."""
        self._stop.set()
        self._thread.join()


def unsupported() -> str:
    """Empty if grpcio is as this module needs it, else what about it is not."""
    if _server is None:
        return "its modules have moved"
    try:
        for function, parameters in (
            (_server._unary_response_in_pool, 6),
            (_server._stream_response_in_pool, 6),
            (_server._possibly_finish_call, 2),
            (_server._receive_message, 3),
        ):
            if len(inspect.signature(function).parameters) != parameters:
                return f"{function.__name__} takes other arguments"
        if _server._unary_request(None, None, None).__qualname__ != _THUNK:
            return "requests are awaited elsewhere"
        fields = _server._RPCState().__dict__
        if not {"condition", "due", "client"} <= fields.keys():
            return "the state of a call has other fields"
        for name in ("_RECEIVE_MESSAGE_TOKEN", "_CANCELLED"):
            getattr(_server, name)
        cygrpc.ReceiveMessageOperation(0)
        if not callable(cygrpc.Call.start_server_batch):
            return "batches are started elsewhere"
        submit = inspect.getsource(_server._handle_unary_unary).partition("submit(")[2]
        passed = [line.strip().rstrip(",") for line in submit.splitlines() if line.strip()]
    except (AttributeError, TypeError, OSError) as error:
        return str(error)
    expected = ["state.context.run", "_unary_response_in_pool", "rpc_event", "state"]
    if passed[:4] != expected or passed[5] != "unary_request":
        return "calls reach the pool with other arguments"
    return ""


class _Ticket:
    """What grpcio sees of a submitted call: something that will say when it is over."""

    __slots__ = ("_callbacks", "_over")

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []
        self._over = False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)
        if self._over:
            self._call_back()

    def over(self) -> None:
        self._over = True
        self._call_back()

    def _call_back(self) -> None:
        # Whoever takes it out calls it: the call may end while it is being added.
        try:
            callback = self._callbacks.pop()
        except IndexError:
            return
        callback(self)


class RequestFirstExecutor(ThreadPoolExecutor):
    """A pool that starts a call of one request once that request is there.

    The behaviour gets the request as bytes, or `MISSING`, `LATE` or `CROWDED`.
    """

    def __init__(self, threads: int, alarms: Alarms, name: str) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self._alarms = alarms
        # Whoever comes after these is refused: without keeping the request, and by a thread of
        # its own, for all others may be stuck.
        self._max_running = max(threads, _LEAST_RUNNING)
        self._refusing = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-refusing")
        # In the order in which they came; only grpcio's one serving thread adds to it.
        self._arriving: OrderedDict[object, tuple[float, Callable[[object], None]]] = OrderedDict()
        self._running: set[object] = set()
        self._large: set[object] = set()

    @property
    def running(self) -> int:
        """Calls that have their request but no answer yet."""
        return len(self._running)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if len(args) == _ARGUMENTS and getattr(args[4], "__qualname__", "") == _THUNK:
            return self._await_request(fn, *args[:4], *args[5:])
        return super().submit(fn, *args, **kwargs)

    def _await_request(
        self,
        run: Callable[..., Any],
        target: Any,
        rpc_event: Any,
        state: Any,
        behaviour: Any,
        *coders: Any,
    ) -> _Ticket:
        # grpcio calls this on its one serving thread, which must never stop or raise.
        ticket = _Ticket()
        alarms, arriving = self._alarms, self._arriving
        running, large = self._running, self._large
        submit, refuse = super().submit, self._refusing.submit
        token = _server._RECEIVE_MESSAGE_TOKEN

        def ended(_work: object) -> None:
            running.discard(ticket)
            large.discard(ticket)
            ticket.over()

        def start(request: object) -> None:
            running.add(ticket)
            arguments = (target, rpc_event, state, behaviour, lambda: request, *coders)
            try:
                work = (refuse if request is CROWDED else submit)(run, *arguments)
            except RuntimeError:  # the pool is closed, and so is the server
                ended(None)
            else:
                work.add_done_callback(ended)

        def received(event: Any) -> Any:
            data = event.batch_operations[0].message()
            arriving.pop(ticket, None)
            if alarms.call_off(ticket):
                if data is not None:
                    start(data if self._keeps(ticket, len(data)) else CROWDED)
                elif state.client is not _server._CANCELLED:
                    start(MISSING)
                else:
                    ended(None)
            with state.condition:
                return _server._possibly_finish_call(state, token)

        def late() -> None:
            arriving.pop(ticket, None)
            start(LATE)

        if len(arriving) >= MAX_ARRIVING and not self._make_room():
            start(CROWDED)
            return ticket
        arriving[ticket] = time.monotonic(), start
        alarms.set(ticket, late)
        rpc_event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
        state.due.add(token)
        return ticket

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for shut_down in (self._refusing.shutdown, super().shutdown):
            shut_down(wait, cancel_futures=cancel_futures)

    def _make_room(self) -> bool:
        """Give up the call whose request has been on its way longest, if that is long."""
        try:
            ticket, (since, start) = next(iter(self._arriving.items()))
        except (StopIteration, RuntimeError):  # an alarm has just taken one out
            return True
        if time.monotonic() - since < _UNDISTURBED_SECONDS:
            return False
        self._arriving.pop(ticket, None)
        if self._alarms.call_off(ticket):
            start(CROWDED)
        return True

    def _keeps(self, ticket: _Ticket, size_bytes: int) -> bool:
        """Whether there is room for a request that has come."""
        if len(self._running) >= self._max_running:
            return False
        if size_bytes > _LARGE_BYTES:
            if len(self._large) >= MAX_LARGE:
                return False
            self._large.add(ticket)
        return True


def executor(threads: int, alarms: Alarms, name: str) -> ThreadPoolExecutor:
    """The pool for calls of one request."""
    reason = unsupported()
    if not reason:
        return RequestFirstExecutor(threads, alarms, name)
    log.warning("calls without a request hold threads", extra={"fields": {"grpcio": reason}})
    return ThreadPoolExecutor(threads, thread_name_prefix=name)


def authority(context: Any) -> str:
    """HOST:PORT as the caller wrote it, empty where grpcio does not tell.

    It only tells of methods that are not registered with its core.
    """
    try:
        host = context._rpc_event.call_details.host
    except AttributeError:
        return ""
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
