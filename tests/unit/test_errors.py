"""The error catalogue."""

import inspect
import json
from collections.abc import Callable

import pytest

from darkroom.domain import errors
from darkroom.domain.errors import CATALOGUE, Failure, Kind

FULL_STOPS = {"ACTIVE_OPERATIONS_LIMIT", "UNAUTHENTICATED"}
"""Texts that are the cloud's own, full stop and all."""


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=CATALOGUE)
def test_every_kind_says_what_to_do(kind: Kind) -> None:
    assert kind.reason == kind.reason.upper()
    assert kind.message and (kind.message.endswith(".") == (kind.reason in FULL_STOPS))
    assert kind.advice.endswith(".")
    if kind.retry_after_seconds is not None:
        assert kind.retry_after_seconds > 0


def arguments_of(constructor: Callable[..., Failure], number: int) -> list[object]:
    arguments: list[object] = []
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.annotation in (int, float):
            arguments.append(number)
        elif parameter.annotation is str:
            arguments.append("some text")
        elif "str" in str(parameter.annotation):
            arguments.append(["some", "texts"])
        else:
            arguments.append([errors.FieldViolation("field", "is wrong")])
    return arguments


def test_every_kind_has_a_constructor_that_makes_it() -> None:
    made = set()
    for _, constructor in inspect.getmembers(errors, inspect.isfunction):
        if constructor.__annotations__.get("return") is not Failure:
            continue
        # One constructor tells failures apart by the status of an HTTP reply.
        for number in (302, 403, 404, 500):
            failure = constructor(*arguments_of(constructor, number))
            kind = CATALOGUE[failure.reason]
            assert failure.code is kind.code
            assert failure.retry_after_seconds == kind.retry_after_seconds
            assert "{" not in failure.message
            again = Failure.from_record(json.loads(json.dumps(failure.to_record())))
            assert again.to_record() == failure.to_record()
            made.add(failure.reason)
    assert made == set(CATALOGUE)
