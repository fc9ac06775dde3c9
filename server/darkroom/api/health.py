"""grpc.health.v1: NOT_SERVING until told otherwise, overall and for each service.

Besides, `liveness` is SERVING for as long as the server answers at all: while it waits for its
database and while it drains, too, when a restart would only do harm.

Not with grpcio-health-checking's servicer: it holds its lock while it waits for a message to be
sent, and takes the same lock when a watch ends, on the thread that would tell it that the message
was sent. One watch that ends at the wrong moment then stops the whole server.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from darkroom.api.arrival import Alarms
from darkroom.api.calls import Call, Method
from darkroom.api.interceptors import Behaviour, Interceptors
from darkroom.api.status import answer, refusal
from darkroom.domain import errors

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]
LIVENESS = "liveness"
"""What probes ask for that decide whether the process is restarted."""
_OVERALL = ""
_STATES = health_pb2.HealthCheckResponse


class _Watch:
    """One open watch. It is told the state of the moment whenever it was last told another."""

    def __init__(
        self,
        state: Callable[[], int],
        send: Callable[[health_pb2.HealthCheckResponse], None],
        cancel: Callable[[], object],
        alarms: Alarms,
    ) -> None:
        self._state = state
        self._send = send
        self._cancel = cancel
        self._alarms = alarms
        self._told: int | None = None
        # Held while a message is sent, so the end of a watch must never wait for it.
        self._lock = threading.Lock()

    def tell(self) -> None:
        """Send the state. A client that does not take it in time loses its watch."""
        with self._lock:
            state = self._state()
            if state == self._told:
                return
            self._told = state
            key = object()
            self._alarms.set(key, self._cancel)
            try:
                self._send(_STATES(status=state))
            finally:
                self._alarms.call_off(key)


class Health:
    """The state that `Check` and `Watch` tell, changed by the server."""

    def __init__(self, services: Iterable[str], alarms: Alarms) -> None:
        """`alarms` bounds how long a watching client may take to receive a message."""
        self._services = frozenset((_OVERALL, LIVENESS, *services))
        self._alarms = alarms
        self._serving = False
        self._shut_down = False
        self._watches: set[_Watch] = set()
        # Of the fields above; nothing is sent and nobody waited for under it.
        self._lock = threading.Lock()

    def set_serving(self, serving: bool) -> None:
        """Change the state of everything; ineffective after `shut_down`."""
        with self._lock:
            self._serving = serving and not self._shut_down
            watches = list(self._watches)
        for watch in watches:
            watch.tell()

    def shut_down(self) -> None:
        """NOT_SERVING for good."""
        with self._lock:
            self._shut_down = True
        self.set_serving(False)

    def _state(self, service: str) -> "health_pb2.HealthCheckResponse.ServingStatus":
        if service not in self._services:
            return _STATES.SERVICE_UNKNOWN
        serving = self._serving or service == LIVENESS
        return _STATES.SERVING if serving else _STATES.NOT_SERVING

    def check(self, call: Call) -> health_pb2.HealthCheckResponse:
        if call.request.service not in self._services:
            raise errors.resource_not_found("Service", call.request.service[:64])
        return _STATES(status=self._state(call.request.service))

    def _begin_watch(
        self, service: str, context: grpc.ServicerContext, send: Callable[[Any], None]
    ) -> None:
        watch = _Watch(lambda: self._state(service), send, context.cancel, self._alarms)

        def forget() -> None:
            with self._lock:
                self._watches.discard(watch)

        with self._lock:
            self._watches.add(watch)
        # False for a call that is over already: then nobody else would ever forget it.
        if not context.add_callback(forget):
            forget()
        watch.tell()

    def behaviour(self, method: Method, interceptors: Interceptors) -> Behaviour:
        """What grpcio calls for one of the methods."""
        if method.name == "Check":
            return interceptors.around(method, self.check)

        def watch(request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
            call = interceptors.watch_stream(method, context)
            try:
                message = health_pb2.HealthCheckRequest.FromString(request)
            except (DecodeError, TypeError):  # a NoRequest is no bytes
                failure = errors.request_unreadable(health_pb2.HealthCheckRequest.DESCRIPTOR.name)
                answer(context, refusal(failure, call.request_id))
            else:
                self._begin_watch(message.service, context, send)

        # grpcio then calls it with `send` and holds no thread for it afterwards.
        watch.experimental_non_blocking = True  # type: ignore[attr-defined]
        return watch
