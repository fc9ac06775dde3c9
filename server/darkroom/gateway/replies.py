"""What Envoy answers where no answer of the server reaches the caller, in the server's words."""

import json
from typing import Any

from google.protobuf.json_format import MessageToJson

from darkroom.api.status import to_status
from darkroom.domain import errors
from darkroom.domain.errors import Failure

_REQUEST_ID = "%REQ(X-REQUEST-ID)%"
_PROBLEM = "%LOCAL_REPLY_BODY%"
"""What Envoy has to say, mostly which field cannot be read. It may quote what the caller sent, goes
to that caller alone, and into no log."""


def local_replies(max_body_bytes: int, max_header_bytes: int) -> dict[str, Any]:
    """Envoy's LocalReplyConfig: google.rpc.Status in JSON, to callers of gRPC its message alone."""
    mappers = []
    for operator, http_status, failure in _failures(max_body_bytes, max_header_bytes):
        is_status = _has_status(operator, http_status)
        mappers.append(
            {
                "filter": {"and_filter": {"filters": [is_status, *_CALLED_BY_GRPC]}},
                "body_format_override": {"text_format_source": {"inline_string": failure.message}},
            }
        )
        mappers.append({"filter": is_status, "body_format_override": _json(failure)})
    with_request_id = {
        "header": {"key": "x-request-id", "value": _REQUEST_ID},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    return {"mappers": [mapper | {"headers_to_add": [with_request_id]} for mapper in mappers]}


def _failures(max_body_bytes: int, max_header_bytes: int) -> tuple[tuple[str, int, Failure], ...]:
    """By HTTP status; the first that fits is taken."""
    return (
        ("EQ", 403, errors.http_origin_not_allowed()),
        ("EQ", 404, errors.http_method_unknown()),
        ("EQ", 408, errors.http_request_too_late()),
        ("EQ", 413, errors.http_request_too_large("body", max_body_bytes)),
        ("EQ", 431, errors.http_request_too_large("header", max_header_bytes)),
        ("EQ", 502, errors.server_unreachable()),
        ("EQ", 503, errors.server_unreachable()),
        ("EQ", 504, errors.server_too_slow()),
        ("GE", 500, errors.internal()),
        ("GE", 400, errors.http_request_invalid(_PROBLEM)),
    )


_CALLED_BY_GRPC = (
    {
        "header_filter": {
            "header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
        }
    },
    # A REST call that has become a gRPC call still knows its old path.
    {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": False}}},
)


def _has_status(operator: str, http_status: int) -> dict[str, Any]:
    # Envoy wants a name under which the number could be changed at run time.
    value = {"default_value": http_status, "runtime_key": f"darkroom.reply_{http_status}"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _json(failure: Failure) -> dict[str, Any]:
    return {
        # Through text: an Any comes as a dictionary of another kind. Sorted: a map has no order.
        "json_format": json.loads(MessageToJson(to_status(failure, _REQUEST_ID), sort_keys=True)),
        # A request that cannot even be parsed has no id.
        "omit_empty_values": True,
    }
