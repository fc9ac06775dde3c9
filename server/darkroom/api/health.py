"""grpc.health.v1: NOT_SERVING until told otherwise, overall and for each service."""

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from darkroom.api.calls import Call, Method
from darkroom.api.interceptors import Behaviour, Interceptors, watch_stream
from darkroom.api.status import answer, refusal
from darkroom.domain import errors

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]
_OVERALL = ""


class _Ending:
    """The end of a watch, heard of even if it came before anybody listened.

    grpcio-health-checking takes no notice when `add_callback` says that the call is over already.
    It would keep such a call for ever, and with a hundred of them its connection answers no more.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def add_callback(self, callback: Callable[[], None]) -> None:
        if not self._context.add_callback(callback):
            callback()


class Health:
    """The state that `Check` and `Watch` tell, changed by the server."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset((_OVERALL, *services))
        self._servicer = health.HealthServicer(experimental_non_blocking=True)
        self.set_serving(False)

    def set_serving(self, serving: bool) -> None:
        """Change the state of everything; ineffective after `shut_down`."""
        states = health_pb2.HealthCheckResponse
        for service in self._services:
            self._servicer.set(service, states.SERVING if serving else states.NOT_SERVING)

    def shut_down(self) -> None:
        """NOT_SERVING for good."""
        self._servicer.enter_graceful_shutdown()

    def check(self, call: Call) -> health_pb2.HealthCheckResponse:
        if call.request.service not in self._services:
            raise errors.resource_not_found("Service", call.request.service[:64])
        return self._servicer.Check(call.request, call.context)

    def behaviour(self, method: Method, interceptors: Interceptors) -> Behaviour:
        """What grpcio calls for one of the methods."""
        if method.name == "Check":
            return interceptors.around(method, self.check)

        def watch(request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
            call = watch_stream(method, context)
            try:
                message = health_pb2.HealthCheckRequest.FromString(request)
            except (DecodeError, TypeError):  # a NoRequest is no bytes
                failure = errors.request_unreadable(health_pb2.HealthCheckRequest.DESCRIPTOR.name)
                answer(context, refusal(failure, call.request_id))
            else:
                self._servicer.Watch(message, _Ending(context), send)

        # grpcio then calls it with `send` and holds no thread for it afterwards.
        watch.experimental_non_blocking = True  # type: ignore[attr-defined]
        return watch
