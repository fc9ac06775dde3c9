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
from collections import OrderedDict, deque
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

MAX_SETTLED = 64
MAX_NEWEST = 256
"""Calls of one pool whose request may be on its way. gRPC's core makes room for a whole request as
soon as it is waited for, so this many of the largest are what callers can have it keep, however
many connections they open."""

_MOMENT_SECONDS = 0.25
"""The newest may be more for so long, up to `_MOST_FOR_A_MOMENT`: a request that comes with its
call is there by then, however busy the server is with others. Both have to be so large: on a
machine that has too much to do, 0.1 s or 256 gave up such calls beside ten thousand idle ones."""
_MOST_FOR_A_MOMENT = 1024

_UNDISTURBED_SECONDS = 2.0
"""How long a settled one may take while others want its place."""

_MAX_REFUSED = 256
"""Calls of one pool that are given up and not answered yet, whose requests go on coming: beyond
them nobody else's request is waited for, until there are fewer."""

_LEAST_RUNNING = 128
"""Calls of one pool that may have their request and no answer yet, however few its threads."""

_LARGE_BYTES = 64 * 1024
MAX_LARGE = 64
"""Requests longer than that which are kept at once: they are rare, and memory is not for them."""

_LONGEST_PAUSE_SECONDS = 0.1

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
        self._in_between: list[Callable[[], object]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="call-alarms", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: object, ring: Callable[[], object]) -> None:
        """Call `ring` once the time is up, on the alarms' own thread."""
        self._due[key] = (time.monotonic() + self.seconds, ring)

    def in_between(self, act: Callable[[], object]) -> None:
        """Have `act` done several times a second, on the alarms' own thread."""
        self._in_between.append(act)

    def call_off(self, key: object) -> bool:
        """Whether it was in time: if so, `ring` is never called."""
        return self._due.pop(key, None) is not None

    def _run(self) -> None:
        pause_seconds = min(self.seconds / 4, _LONGEST_PAUSE_SECONDS)
        while not self._stop.wait(pause_seconds):
            now = time.monotonic()
            due = []
            for key, (due_at, ring) in list(self._due.items()):
                if due_at > now:
                    break
                if self.call_off(key):
                    due.append(ring)
            for act in (*due, *self._in_between):
                try:
                    act()
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
            (_server._is_rpc_state_active, 1),
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


class _Arrivals:
    """Calls whose request is on its way, of which there may be only so many.

    Each begins among the newest. Where those are too many, the oldest of them is moved to the
    settled ones, which have time, or given up if there is no place: so neither calls that never
    send a request nor large ones keep out small ones. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # In the order in which they came.
        self._newest: OrderedDict[object, tuple[float, Callable[[], None]]] = OrderedDict()
        self._settled: OrderedDict[object, tuple[float, Callable[[], None]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newest) + len(self._settled)

    def add(self, key: object, give_up: Callable[[], None]) -> None:
        """Take one in; `give_up` is called if it has to go."""
        with self._lock:
            self._newest[key] = time.monotonic(), give_up
        self.settle()

    def remove(self, key: object) -> None:
        """Its request has come, or nobody waits for it any more."""
        with self._lock:
            if self._newest.pop(key, None) is None:
                self._settled.pop(key, None)

    def settle(self) -> None:
        """See that there are not too many for longer than a moment."""
        if len(self._newest) <= MAX_NEWEST:
            return
        with self._lock:
            given_up = self._moved(time.monotonic())
        for give_up in given_up:
            give_up()

    def _moved(self, now: float) -> list[Callable[[], None]]:
        """Make the newest few again; those that no place was found for."""
        given_up = []
        while len(self._newest) > MAX_NEWEST:
            key, (since, give_up) = next(iter(self._newest.items()))
            if now - since < _MOMENT_SECONDS and len(self._newest) <= _MOST_FOR_A_MOMENT:
                break
            del self._newest[key]
            if len(self._settled) >= MAX_SETTLED:
                settled, (settled_since, give_up_settled) = next(iter(self._settled.items()))
                if now - settled_since < _UNDISTURBED_SECONDS:
                    given_up.append(give_up)
                    continue
                del self._settled[settled]
                given_up.append(give_up_settled)
            self._settled[key] = since, give_up
        return given_up


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
        self._arrivals = _Arrivals()
        alarms.in_between(self._arrivals.settle)
        self._held: deque[Callable[[], None]] = deque()
        self._running: set[object] = set()
        self._refused: set[object] = set()
        self._large: set[object] = set()

    @property
    def running(self) -> int:
        """Calls that have their request, or are to be refused, but have no answer yet."""
        return len(self._running) + len(self._refused)

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
        alarms, arrivals = self._alarms, self._arrivals
        token = _server._RECEIVE_MESSAGE_TOKEN

        def start(request: object) -> None:
            arguments = (target, rpc_event, state, behaviour, lambda: request, *coders)
            self._start(ticket, request, run, arguments)

        def received(event: Any) -> Any:
            data = event.batch_operations[0].message()
            arrivals.remove(ticket)
            if alarms.call_off(ticket):
                if data is not None:
                    start(data if self._keeps(ticket, len(data)) else CROWDED)
                elif state.client is not _server._CANCELLED:
                    start(MISSING)
                else:
                    ticket.over()
            with state.condition:
                return _server._possibly_finish_call(state, token)

        def late() -> None:
            arrivals.remove(ticket)
            start(LATE)

        def give_up() -> None:
            if alarms.call_off(ticket):
                start(CROWDED)

        def begin() -> None:
            arrivals.add(ticket, give_up)
            operations = (cygrpc.ReceiveMessageOperation(0),)
            with state.condition:  # on another thread, perhaps, and the client may have gone
                if _server._is_rpc_state_active(state):
                    rpc_event.call.start_server_batch(operations, received)
                    state.due.add(token)
                    return
            arrivals.remove(ticket)
            if alarms.call_off(ticket):
                ticket.over()

        alarms.set(ticket, late)
        self._held.append(begin)
        self._begin()
        return ticket

    def _begin(self) -> None:
        """Wait for the requests of calls as long as there are not too many to be refused."""
        while len(self._refused) < _MAX_REFUSED:
            try:
                begin = self._held.popleft()
            except IndexError:
                return
            begin()

    def _start(
        self, ticket: _Ticket, request: object, run: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        """Have a thread answer the call, with its request or with what stands in its place."""
        crowded = request is CROWDED
        (self._refused if crowded else self._running).add(ticket)

        def ended(_work: object) -> None:
            for each in (self._running, self._refused, self._large):
                each.discard(ticket)
            ticket.over()

        submit = self._refusing.submit if crowded else super().submit
        try:
            work = submit(run, *arguments)
        except RuntimeError:  # the pool is closed, and so is the server
            ended(None)
        else:
            work.add_done_callback(ended)
            if crowded:
                work.add_done_callback(lambda _work: self._begin())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for shut_down in (self._refusing.shutdown, super().shutdown):
            shut_down(wait, cancel_futures=cancel_futures)

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
