"""What configurations of Envoy are put together from: plain dictionaries, units in the names."""

import ipaddress
from typing import Any

import yaml

from darkroom.config import MAX_CONCURRENT_STREAMS

PREFIX = "type.googleapis.com/envoy.extensions."
_CONNECTION_WINDOW_BYTES = 1024 * 1024
"""What Envoy advises for what strangers can reach."""

Document = dict[str, Any]


class _Plain(yaml.SafeDumper):
    """Writes repeated parts out instead of referring to them."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def as_text(document: Document) -> str:
    """The document as YAML."""
    return str(yaml.dump(document, Dumper=_Plain, sort_keys=False, width=100))


def extension(name: str, kind: str, **config: Any) -> Document:
    """A named part of Envoy, with its configuration."""
    return {"name": name, "typed_config": {"@type": PREFIX + kind, **config}}


def duration(seconds: float) -> str:
    """As protobuf's JSON has it."""
    return f"{seconds:g}s"


def socket_address(address: str) -> Document:
    """Of HOST:PORT."""
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def discovery(addresses: tuple[str, ...]) -> str:
    """How a cluster of these comes to its endpoints."""
    try:
        for address in addresses:
            ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return "STRICT_DNS"
    return "STATIC"


def log_format() -> Document:
    """Of Envoy's own log: JSON, as ours is."""
    return {
        "log_format": {
            "json_format": {
                "time": "%Y-%m-%dT%T.%fZ",
                "level": "%l",
                "logger": "envoy.%n",
                "event": "%j",
            }
        }
    }


def connection_limit(max_connections: int) -> Document:
    """An overload manager that accepts no more connections than these."""
    return {
        "resource_monitors": [
            extension(
                "envoy.resource_monitors.global_downstream_max_connections",
                "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=max_connections,
            )
        ]
    }


def own_request_id() -> Document:
    """Takes the caller's own id where there is no `x-request-id`, as the server does."""
    own_id = {"key": "x-request-id", "value": "%REQ(x-client-request-id)%"}
    return {"append": {"header": own_id, "append_action": "ADD_IF_ABSENT"}}


def _kept_request_id() -> Document:
    """Settings of a connection manager: one support id for a call, the caller's or a new one."""
    return {
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "request_id_extension": {
            "typed_config": {
                "@type": PREFIX + "request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
            }
        },
    }


def wary_of_callers(
    max_header_bytes: int, header_seconds: float, stream_window_bytes: int
) -> Document:
    """Settings of a connection manager that strangers reach.

    Whoever calls, from whichever address: none of the headers with which Envoys talk among
    themselves is obeyed, and a connection takes only so much memory.
    """
    return {
        "max_request_headers_kb": max_header_bytes // 1024,
        "request_headers_timeout": duration(header_seconds),
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_CONCURRENT_STREAMS,
            "initial_stream_window_size": stream_window_bytes,
            "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
        },
        "use_remote_address": True,
        "internal_address_config": {},
        "server_header_transformation": "PASS_THROUGH",
        **_kept_request_id(),
    }


def access_log(fields: Document) -> Document:
    """A JSON line on standard error for each call."""
    return extension(
        "envoy.access_loggers.stderr",
        "access_loggers.stream.v3.StderrAccessLog",
        log_format={"json_format": fields},
    )


def without(*filter_names: str) -> Document:
    """For a route that does without these filters."""
    kind = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
    return {name: {"@type": kind, "disabled": True} for name in filter_names}
