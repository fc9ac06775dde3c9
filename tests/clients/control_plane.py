"""A minimal control plane for xDS, on Envoy's own protos: it gives a server its listener.

usage: python control_plane.py PORT   mutual TLS on PORT, by the certificate provider `files`

Runs in an environment of its own. Prints its port, and a line for each request; ends with its
standard input.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"


def listener(name: str, port: int) -> Any:
    """What a gRPC server is to serve with."""
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="inbound")
    manager.http_filters.add(name="router").typed_config.Pack(router_pb2.Router())
    host = manager.route_config.virtual_hosts.add(name="all", domains=["*"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.non_forwarding_action.SetInParent()
    tls = tls_pb2.DownstreamTlsContext()
    tls.require_client_certificate.value = True
    common = tls.common_tls_context
    common.tls_certificate_provider_instance.instance_name = "files"
    trusted = common.validation_context.ca_certificate_provider_instance
    trusted.instance_name = "files"
    made = listener_pb2.Listener(name=name)
    made.address.socket_address.address = "127.0.0.1"
    made.address.socket_address.port_value = port
    made.default_filter_chain.filters.add(name="manager").typed_config.Pack(manager)
    socket = made.default_filter_chain.transport_socket
    socket.name = "envoy.transport_sockets.tls"
    socket.typed_config.Pack(tls)
    return made


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Answers the first question for listeners on each stream."""

    def __init__(self, port: int) -> None:
        self._port = port

    def StreamAggregatedResources(self, requests: Iterator[Any], _context: Any) -> Iterator[Any]:
        for request in requests:
            said = request.error_detail.message or "asked"
            print(request.type_url.rpartition(".")[2], said, flush=True)
            if request.type_url == LISTENER and not request.response_nonce:
                answer = discovery_pb2.DiscoveryResponse(
                    version_info="1", type_url=LISTENER, nonce="1"
                )
                for name in request.resource_names:
                    answer.resources.add().Pack(listener(name, self._port))
                yield answer


def main() -> None:
    """Serve until standard input ends."""
    server = grpc.server(ThreadPoolExecutor(4))
    plane = ControlPlane(int(sys.argv[1]))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(plane, server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
