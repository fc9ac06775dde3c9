"""A pair of Envoys between a client and the replicas: mutual TLS, health, retries, limits.

The client's one listens in plaintext beside the client, the server's one beside the server. Both
are documents of plain dictionaries, like the gateway's. Certificates stand in files that each
watches, so new ones need no restart.
"""

from dataclasses import dataclass
from pathlib import PurePath

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

MAX_CONNECTIONS = 1000
MAX_REQUESTS = 1000
"""Under way at once to all replicas, or to the one server beside."""
MAX_PENDING = 200
"""Of these, those that wait for a connection."""
MAX_RETRIES_AT_ONCE = 50
RETRIES = 5
RETRY_SECONDS = 0.05
LONGEST_RETRY_SECONDS = 2.0
LONGEST_PUSHBACK_SECONDS = 60.0
"""Who is told to wait longer than this is not made to wait here, but told so."""
CONNECT_SECONDS = 2.0
HEADER_SECONDS = 10.0
IDLE_SECONDS = 60.0
"""How long a call may stand still, in particular while its request is sent."""
HEALTH_SECONDS = 1.0
HEALTH_TIMEOUT_SECONDS = 1.0
EJECTION_SECONDS = 5.0
_STREAM_WINDOW_BYTES = 256 * 1024

_OWN, _TRUSTED = "identity", "trusted"
_BUFFER = "envoy.filters.http.buffer"
_STREAMS = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Methods whose requests or replies are streams; all others take one request."""
_READS = r"/yandex\.cloud\.[a-zA-Z0-9_.]+/(Get|List)[A-Za-z]*"
_NOT_BEGUN = "connect-failure,refused-stream,reset-before-request"
"""Failures that say that no server has begun to work on the call."""
_ANY_FAILURE = f"{_NOT_BEGUN},reset,unavailable,resource-exhausted"


@dataclass(frozen=True)
class Identity:
    """PEM files of one side, and who the other side must be by its certificate's URI.

    The files are replaced by renaming, as Kubernetes does with the folder of a secret, or nobody
    notices.
    """

    certificate: str
    key: str
    trusted: str
    peers: tuple[str, ...]
    folder: str
    """Where Envoy finds the files of `secrets`."""

    @property
    def own_secret(self) -> str:
        return str(PurePath(self.folder, "identity.yaml"))

    @property
    def trusted_secret(self) -> str:
        return str(PurePath(self.folder, "trusted.yaml"))


@dataclass(frozen=True)
class ServerSidecar:
    """What differs from one to another. Addresses are HOST:PORT."""

    listen: str
    upstream: str
    identity: Identity
    max_request_bytes: int
    max_header_bytes: int
    upstream_peer: str = ""
    """Who the server is by its certificate's URI, if it is called over mutual TLS, as
    `--auth-mode mesh` asks for. Empty: it is called in plaintext."""


@dataclass(frozen=True)
class ClientSidecar:
    """What differs from one to another. `upstreams` are the servers' sidecars, or one name."""

    listen: str
    upstreams: tuple[str, ...]
    identity: Identity
    max_request_bytes: int
    max_header_bytes: int


def secrets(identity: Identity) -> dict[str, Document]:
    """What the files that both configurations refer to must hold, by path."""
    watched = {"path": str(PurePath(identity.certificate).parent)}
    return {
        identity.own_secret: _secret(
            _OWN,
            tls_certificate={
                "certificate_chain": {"filename": identity.certificate},
                "private_key": {"filename": identity.key},
                "watched_directory": watched,
            },
        ),
        identity.trusted_secret: _secret(
            _TRUSTED,
            validation_context={
                "trusted_ca": {"filename": identity.trusted},
                "watched_directory": watched,
            },
        ),
    }


def _secret(name: str, **fields: Document) -> Document:
    kind = PREFIX + "transport_sockets.tls.v3.Secret"
    return {"resources": [{"@type": kind, "name": name, **fields}]}


def server_configuration(sidecar: ServerSidecar) -> Document:
    """The bootstrap configuration of the Envoy beside a server."""
    listener = _listener("inbound", sidecar, _inbound_routes())
    tls = {
        "@type": PREFIX + "transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _tls(sidecar.identity, sidecar.identity.peers),
    }
    listener["filter_chains"][0]["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": tls,
    }
    cluster = _cluster((sidecar.upstream,))
    if sidecar.upstream_peer:
        cluster |= _towards(sidecar.identity, (sidecar.upstream_peer,))
    return _bootstrap("inbound", listener, cluster)


def client_configuration(sidecar: ClientSidecar) -> Document:
    """The bootstrap configuration of the Envoy beside a client."""
    secure = _towards(sidecar.identity, sidecar.identity.peers)
    cluster = (
        _cluster(sidecar.upstreams)
        | secure
        | {
            "lb_policy": "LEAST_REQUEST",
            "health_checks": [
                {
                    "timeout": duration(HEALTH_TIMEOUT_SECONDS),
                    "interval": duration(HEALTH_SECONDS),
                    "no_traffic_interval": duration(HEALTH_SECONDS),
                    "unhealthy_threshold": 1,
                    "healthy_threshold": 1,
                    "grpc_health_check": {},
                }
            ],
            "outlier_detection": {
                "consecutive_5xx": 5,
                "consecutive_gateway_failure": 3,
                "enforcing_consecutive_gateway_failure": 100,
                "interval": duration(HEALTH_SECONDS),
                "base_ejection_time": duration(EJECTION_SECONDS),
                "max_ejection_percent": 50,
            },
        }
    )
    return _bootstrap("outbound", _listener("outbound", sidecar, _outbound_routes()), cluster)


def _bootstrap(name: str, listener: Document, cluster: Document) -> Document:
    return {
        # Envoy wants to be somebody before it reads secrets.
        "node": {"id": name, "cluster": "darkroom"},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
        "application_log_config": log_format(),
        "overload_manager": connection_limit(MAX_CONNECTIONS),
    }


def _towards(identity: Identity, peers: tuple[str, ...]) -> Document:
    """The part of a cluster that makes its connections those of mutual TLS."""
    kind = PREFIX + "transport_sockets.tls.v3.UpstreamTlsContext"
    return {
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": kind, "common_tls_context": _tls(identity, peers)},
        }
    }


def _tls(identity: Identity, peers: tuple[str, ...]) -> Document:
    return {
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            # As a client Envoy would not go beyond 1.2.
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificate_sds_secret_configs": [_watched(_OWN, identity.own_secret)],
        "combined_validation_context": {
            "default_validation_context": {
                # Any certificate of the authority proves somebody, but not the right one.
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": peer}} for peer in peers
                ],
            },
            "validation_context_sds_secret_config": _watched(_TRUSTED, identity.trusted_secret),
        },
    }


def _watched(name: str, path: str) -> Document:
    source = {"path_config_source": {"path": path}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _listener(name: str, sidecar: ServerSidecar | ClientSidecar, routes: Document) -> Document:
    return {
        "name": name,
        "address": socket_address(sidecar.listen),
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": sidecar.max_request_bytes,
        "filter_chains": [{"filters": [_connection_manager(name, sidecar, routes)]}],
    }


def _connection_manager(
    name: str, sidecar: ServerSidecar | ClientSidecar, routes: Document
) -> Document:
    by_peer: Document = {}
    if name == "inbound":
        # The server hears of this caller, and nothing of what the caller says about others.
        by_peer["forward_client_cert_details"] = "SANITIZE_SET"
        by_peer["set_current_client_cert_details"] = {"uri": True}
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="HTTP2",
        # Routes say how long a call may stand still.
        stream_idle_timeout="0s",
        **wary_of_callers(sidecar.max_header_bytes, HEADER_SECONDS, _STREAM_WINDOW_BYTES),
        **by_peer,
        early_header_mutation_extensions=[
            extension(
                "envoy.http.early_header_mutation.header_mutation",
                "http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=[own_request_id()],
            )
        ],
        access_log=[access_log(_log_fields(name))],
        route_config={
            "name": name,
            "virtual_hosts": [{"name": "darkroom", "domains": ["*"], **routes}],
        },
        http_filters=[
            # A request is read whole before anybody behind hears of the call.
            extension(
                _BUFFER,
                "filters.http.buffer.v3.Buffer",
                # The server's own refusal says what to do, Envoy's says only that it is too much.
                max_request_bytes=2 * sidecar.max_request_bytes,
            ),
            extension(
                "envoy.filters.http.router",
                "filters.http.router.v3.Router",
                suppress_envoy_headers=True,
            ),
        ],
    )


def _log_fields(name: str) -> Document:
    return {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
        "level": "info",
        "logger": "envoy.access",
        "event": name,
        "method": "%PATH(NQ)%",
        "code": "%GRPC_STATUS(SNAKE_STRING)%",
        "duration_ms": "%DURATION%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "server_request_id": "%RESP(X-SERVER-REQUEST-ID)%",
        "identity": "%DOWNSTREAM_PEER_URI_SAN%",
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "upstream": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "flags": "%RESPONSE_FLAGS%",
    }


def _inbound_routes() -> Document:
    # Who has sent the call repeats it, to another replica: from here there is only the one.
    return {"routes": [*_stream_routes(), {"match": {"prefix": "/"}, "route": _route(_NOT_BEGUN)}]}


def _outbound_routes() -> Document:
    reads = {"safe_regex": {"regex": _READS}}
    keyed = {"prefix": "/", "headers": [{"name": "idempotency-key", "present_match": True}]}
    return {
        "routes": [
            *_stream_routes(),
            {"match": reads, "route": _route(_ANY_FAILURE)},
            {"match": keyed, "route": _route(_ANY_FAILURE)},
            # Whether it has been done nobody can tell: only what was not begun is repeated.
            {"match": {"prefix": "/"}, "route": _route(_NOT_BEGUN)},
        ]
    }


def _stream_routes() -> list[Document]:
    return [
        {
            "match": {"prefix": prefix},
            "route": {"cluster": "darkroom", "timeout": "0s", "idle_timeout": "0s"},
            "typed_per_filter_config": without(_BUFFER),
        }
        for prefix in _STREAMS
    ]


def _route(retry_on: str) -> Document:
    return {
        "cluster": "darkroom",
        "timeout": "0s",
        "idle_timeout": duration(IDLE_SECONDS),
        # The caller's own deadline holds, without an upper limit.
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
        "retry_policy": {
            "retry_on": retry_on,
            "num_retries": RETRIES,
            "retry_back_off": {
                "base_interval": duration(RETRY_SECONDS),
                "max_interval": duration(LONGEST_RETRY_SECONDS),
            },
            # What RetryInfo and `grpc-retry-pushback-ms` say, in the one form that Envoy reads.
            "rate_limited_retry_back_off": {
                "reset_headers": [{"name": "retry-after", "format": "SECONDS"}],
                "max_interval": duration(LONGEST_PUSHBACK_SECONDS),
            },
            "retry_host_predicate": [
                extension(
                    "envoy.retry_host_predicates.previous_hosts",
                    "retry.host.previous_hosts.v3.PreviousHostsPredicate",
                )
            ],
            "host_selection_retry_max_attempts": 3,
        },
    }


def _cluster(addresses: tuple[str, ...]) -> Document:
    endpoints = [{"endpoint": {"address": socket_address(each)}} for each in addresses]
    return {
        "name": "darkroom",
        "type": discovery(addresses),
        "connect_timeout": duration(CONNECT_SECONDS),
        "load_assignment": {
            "cluster_name": "darkroom",
            "endpoints": [{"lb_endpoints": endpoints}],
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": MAX_CONNECTIONS,
                    "max_pending_requests": MAX_PENDING,
                    "max_requests": MAX_REQUESTS,
                    "max_retries": MAX_RETRIES_AT_ONCE,
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": PREFIX + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
