"""Envoy's configuration: REST, gRPC and gRPC-Web on one port, the server behind it.

A document of plain dictionaries, the same for `darkroom gateway` and for a mesh. The paths of the
REST interface are not here: Envoy reads them from the descriptor set.
"""

from dataclasses import dataclass
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from darkroom.gateway.parts import (
    PREFIX,
    Document,
    access_log,
    connection_limit,
    discovery,
    duration,
    extension,
    log_format,
    own_request_id,
    socket_address,
    wary_of_callers,
    without,
)
from darkroom.gateway.replies import local_replies

MAX_RESPONSE_BYTES = 64 * 1024 * 1024
"""A page of 1000 images with all the labels that are allowed takes about a fifth of this."""
MAX_CONNECTIONS = 1000
ANSWER_SECONDS = 60.0
"""The longest that the server may take to answer REST; no method waits for its operation."""
HEADER_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""How long a REST call may stand still, in particular while its body is sent."""
CONNECT_SECONDS = 5.0
_STREAM_WINDOW_BYTES = 64 * 1024
"""What Envoy advises for what strangers can reach."""

_CLUSTER = "darkroom"
_BUFFER = "envoy.filters.http.buffer"
_TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
_HEADERS = "envoy.filters.http.header_mutation"

_REQUEST_HEADERS = (
    *("authorization", "content-type", "idempotency-key", "x-request-id", "x-client-request-id"),
    *("x-client-trace-id", "x-grpc-web", "x-user-agent", "grpc-timeout"),
)
_RESPONSE_HEADERS = (
    *("x-request-id", "x-server-request-id", "x-server-trace-id", "x-operation-phase"),
    *("x-operation-progress", "grpc-status", "grpc-message", "grpc-status-details-bin"),
)
"""Of calls from a browser, besides those that every page may send and see."""


@dataclass(frozen=True)
class Gateway:
    """What differs from one gateway to another. Addresses are HOST:PORT."""

    listen: str
    upstream: str
    descriptors: Path
    """Read by Envoy, like `openapi`, when it starts."""
    services: tuple[str, ...]
    """Full names of the services that have REST bindings."""
    max_request_bytes: int
    max_header_bytes: int
    openapi: Path | None = None
    allow_origins: tuple[str, ...] = ()
    """Whose pages may call. A page of any other origin may not, or every page that a developer
    visits could use the server on their loopback address."""
    admin_listen: str = ""
    """Envoy's own interface, on which everything can be seen and stopped. Empty: none."""
    access_log: bool = True


def rest_services(descriptor_set: bytes) -> tuple[str, ...]:
    """Full names of the services of a descriptor set that have HTTP bindings."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file
    return tuple(
        sorted(
            f"{file.package}.{service.name}"
            for file in files
            for service in file.service
            if any(method.options.HasExtension(annotations_pb2.http) for method in service.method)
        )
    )


def configuration(gateway: Gateway) -> Document:
    """The bootstrap configuration of one Envoy."""
    document: Document = {}
    if gateway.admin_listen:
        document["admin"] = {"address": socket_address(gateway.admin_listen)}
    return document | {
        "static_resources": {
            "listeners": [_listener(gateway)],
            "clusters": [_cluster(gateway.upstream)],
        },
        "application_log_config": log_format(),
        "overload_manager": connection_limit(MAX_CONNECTIONS),
    }


def _listener(gateway: Gateway) -> Document:
    return {
        "name": "gateway",
        "address": socket_address(gateway.listen),
        # Otherwise two gateways could be started on one port, each getting some of the calls.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": gateway.max_request_bytes,
        "filter_chains": [{"filters": [_connection_manager(gateway)]}],
    }


def _connection_manager(gateway: Gateway) -> Document:
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gateway",
        codec_type="AUTO",
        normalize_path=True,
        **wary_of_callers(gateway.max_header_bytes, HEADER_SECONDS, _STREAM_WINDOW_BYTES),
        early_header_mutation_extensions=[_first_of_all()],
        local_reply_config=local_replies(gateway.max_request_bytes, gateway.max_header_bytes),
        access_log=[_access_log()] if gateway.access_log else [],
        route_config=_routes(gateway),
        http_filters=[
            extension("envoy.filters.http.cors", "filters.http.cors.v3.Cors"),
            extension("envoy.filters.http.grpc_web", "filters.http.grpc_web.v3.GrpcWeb"),
            extension(
                _HEADERS,
                "filters.http.header_mutation.v3.HeaderMutation",
                mutations={"request_mutations": [_not_for_grpc()]},
            ),
            # A JSON body is read whole before the server hears of the call, gRPC is passed on.
            extension(
                _BUFFER,
                "filters.http.buffer.v3.Buffer",
                max_request_bytes=gateway.max_request_bytes,
            ),
            extension(
                _TRANSCODER,
                "filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
                **_transcoding(gateway),
            ),
            extension(
                "envoy.filters.http.router",
                "filters.http.router.v3.Router",
                suppress_envoy_headers=True,
            ),
        ],
    )


def _first_of_all() -> Document:
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        "http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[
            own_request_id(),
            # The transcoder's own notes, which the access log believes.
            {"remove": "x-envoy-original-method"},
            {"remove": "x-envoy-original-path"},
        ],
    )


def _not_for_grpc() -> Document:
    """Headers that mean nothing in REST, or another thing than in gRPC, are not passed on.

    The server would refuse the call as if it had a fault itself: for a name that gRPC does not
    know (`!a`), a `-bin` header that is not in base64, a `grpc-timeout` that is no time.
    """
    names = r"grpc-.*|.*-bin|.*[^-_.:a-z0-9].*"
    return {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": names}}}}


def _transcoding(gateway: Gateway) -> Document:
    return {
        "proto_descriptor": str(gateway.descriptors),
        "services": list(gateway.services),
        # The route that was found by the path of the REST call, with its limits, stays.
        "match_incoming_request_route": True,
        "convert_grpc_status": True,
        # A page token or a filter may be sent by whatever encodes a space as a plus.
        "query_param_unescape_plus": True,
        "request_validation_options": {
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        # Callers look at `done` without asking whether it is there.
        "print_options": {"always_print_primitive_fields": True},
        "max_response_body_size": MAX_RESPONSE_BYTES,
    }


def _routes(gateway: Gateway) -> Document:
    files = [("/descriptors.binpb", gateway.descriptors, "application/x-protobuf")]
    if gateway.openapi is not None:
        files.append(("/openapi.json", gateway.openapi, "application/json"))
    to_server = {
        "cluster": _CLUSTER,
        # Neither means that the server has begun to work on the call.
        "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 2},
    }
    grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    strange_origin = [
        {"name": "origin", "present_match": True},
        *(
            {"name": "origin", "string_match": {"exact": origin}, "invert_match": True}
            for origin in gateway.allow_origins
        ),
    ]
    routes: list[Document] = [
        {
            "match": {"prefix": "/", "headers": strange_origin},
            "direct_response": {"status": 403},
            "typed_per_filter_config": without(_BUFFER) | without(_TRANSCODER),
        },
        *(_file(path, file, content_type) for path, file, content_type in files),
        {
            # How long a call may take is here a matter between the client and the server.
            "match": {"prefix": "/", "headers": [grpc]},
            "route": to_server | {"timeout": "0s", "idle_timeout": "0s"},
            "typed_per_filter_config": without(_BUFFER, _HEADERS),
        },
        {
            "match": {"prefix": "/"},
            "route": to_server
            | {"timeout": duration(ANSWER_SECONDS), "idle_timeout": duration(IDLE_SECONDS)},
        },
    ]
    return {
        "name": "gateway",
        "max_direct_response_body_size_bytes": MAX_RESPONSE_BYTES,
        "virtual_hosts": [
            {
                "name": "darkroom",
                "domains": ["*"],
                "routes": routes,
                "typed_per_filter_config": {"envoy.filters.http.cors": _cors(gateway)},
            }
        ],
    }


def _cors(gateway: Gateway) -> Document:
    return {
        "@type": PREFIX + "filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in gateway.allow_origins],
        "allow_methods": "GET, POST, PATCH, DELETE",
        "allow_headers": ", ".join(_REQUEST_HEADERS),
        "expose_headers": ", ".join(_RESPONSE_HEADERS),
        "max_age": "600",
    }


def _file(path: str, file: Path, content_type: str) -> Document:
    return {
        "match": {"path": path},
        "direct_response": {"status": 200, "body": {"filename": str(file)}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": content_type},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "typed_per_filter_config": without(_TRANSCODER),
    }


def _access_log() -> Document:
    fields = {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
        "level": "info",
        "logger": "envoy.access",
        "event": "http",
        "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
        # Without the query: it may hold what is nobody else's business.
        "path": "%PATH(NQ:ORIG_OR_PATH)%",
        "status": "%RESPONSE_CODE%",
        "duration_ms": "%DURATION%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "protocol": "%PROTOCOL%",
        "received_bytes": "%BYTES_RECEIVED%",
        "sent_bytes": "%BYTES_SENT%",
        "flags": "%RESPONSE_FLAGS%",
    }
    return access_log(fields)


def _cluster(upstream: str) -> Document:
    endpoint = {"endpoint": {"address": socket_address(upstream)}}
    return {
        "name": _CLUSTER,
        "type": discovery((upstream,)),
        "connect_timeout": duration(CONNECT_SECONDS),
        "load_assignment": {"cluster_name": _CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": PREFIX + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
