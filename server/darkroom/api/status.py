"""The one table from failures to statuses: for replies, for Operation.error, and later for REST."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from darkroom.domain.errors import (
    CATALOGUE,
    Code,
    Detail,
    Failure,
    FieldViolation,
    Precondition,
    Quota,
    Resource,
)
from darkroom_pb.yandex.cloud.quota import quota_pb2

DOMAIN = "darkroom"
"""ErrorInfo.domain: whose reasons they are."""

MAX_DETAIL_BYTES = 3072
"""Room for the entries of BadRequest and its like.

A status travels in the trailers. Clients built on gRPC's C library start to drop calls whose
trailers exceed 8 KiB, and there the details count by a third more than their size.
"""
_MAX_MESSAGE_BYTES = 600
_MAX_TEXT_BYTES = 256
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")

GRPC_CODES: dict[Code, grpc.StatusCode] = {code: grpc.StatusCode[code.name] for code in Code}


@dataclass(frozen=True)
class Refusal:
    """A failure as it goes over the wire: what a call answers instead of a message."""

    code: grpc.StatusCode
    reason: str
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]


def _text(value: str, limit_bytes: int = _MAX_TEXT_BYTES) -> str:
    """The text in one line of bounded length: it may quote what a caller sent."""
    encoded = value.encode(errors="replace")
    if len(encoded) > limit_bytes:
        value = encoded[: limit_bytes - 3].decode(errors="ignore") + "..."
    return _UNPRINTABLE.sub("?", value)


def _bad_request(entries: Sequence[FieldViolation]) -> list[Message]:
    detail = error_details_pb2.BadRequest()
    room = MAX_DETAIL_BYTES
    for number, entry in enumerate(entries):
        shown = error_details_pb2.BadRequest.FieldViolation(
            field=_text(entry.field), description=_text(entry.description)
        )
        room -= shown.ByteSize() + 4
        if room < 0:
            hidden = len(entries) - number
            detail.field_violations.add(description=f"{hidden} more fields are wrong")
            break
        detail.field_violations.append(shown)
    return [detail]


def _resource_info(entries: Sequence[Resource]) -> list[Message]:
    return [
        error_details_pb2.ResourceInfo(
            resource_type=entry.type,
            resource_name=_text(entry.name),
            description=_text(entry.description),
        )
        for entry in entries
    ]


def _precondition_failure(entries: Sequence[Precondition]) -> list[Message]:
    detail = error_details_pb2.PreconditionFailure()
    for entry in entries:
        detail.violations.add(
            type=entry.type,
            subject=_text(entry.subject),
            description=_text(entry.description),
        )
    return [detail]


def _quota_failure(entries: Sequence[Quota]) -> list[Message]:
    detail = quota_pb2.QuotaFailure()
    for entry in entries:
        metric = quota_pb2.QuotaMetric(name=entry.metric, limit=entry.limit, usage=entry.usage)
        detail.violations.add(metric=metric, required=entry.required)
    return [detail]


_DETAILS: tuple[tuple[type[Detail], Callable[..., list[Message]]], ...] = (
    (FieldViolation, _bad_request),
    (Resource, _resource_info),
    (Precondition, _precondition_failure),
    (Quota, _quota_failure),
)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


def to_status(
    failure: Failure, request_id: str = "", *, advised: bool = False
) -> status_pb2.Status:
    """The failure as google.rpc.Status; RequestInfo is left out where there is no request id.

    The advice of the catalogue is always among the details. With `advised` it follows the message
    too, for clients that show nothing else: of an import nobody knows the cloud's own words.
    """
    details: list[Message] = []
    for kind, convert in _DETAILS:
        entries = [detail for detail in failure.details if isinstance(detail, kind)]
        if entries:
            details += convert(entries)
    if failure.retry_after_seconds is not None:
        retry_delay = _duration(failure.retry_after_seconds)
        details.append(error_details_pb2.RetryInfo(retry_delay=retry_delay))
    metadata = {name: _text(value) for name, value in failure.metadata.items()}
    message = failure.message
    if (kind_of := CATALOGUE.get(failure.reason)) is not None:
        metadata["advice"] = kind_of.advice
        if advised:
            message = f"{message}. {kind_of.advice}"
    details.append(
        error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=metadata)
    )
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    status = status_pb2.Status(code=failure.code.value, message=_text(message, _MAX_MESSAGE_BYTES))
    for detail in details:
        status.details.add().Pack(detail, deterministic=True)
    return status


def refusal(failure: Failure, request_id: str) -> Refusal:
    """The failure as the end of an RPC: code, message and trailing metadata."""
    status = to_status(failure, request_id)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString())
    ]
    if failure.retry_after_seconds is not None:
        pushback_ms = round(failure.retry_after_seconds * 1000)
        trailers.append(("grpc-retry-pushback-ms", str(pushback_ms)))
        # The same once more, as HTTP has it and proxies read it.
        trailers.append(("retry-after", str(math.ceil(failure.retry_after_seconds))))
    return Refusal(GRPC_CODES[failure.code], failure.reason, status.message, tuple(trailers))


def answer(context: grpc.ServicerContext, refused: Refusal) -> NoReturn:
    """End the call with it; grpcio wants the exception that this raises to reach it."""
    context.set_trailing_metadata(refused.trailers)
    context.abort(refused.code, refused.message)
