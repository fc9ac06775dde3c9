"""The published OpenAPI document as a judge: of answers, and of requests."""

import functools
import importlib.resources
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from openapi_schema_validator import OAS31Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

DOCUMENT: dict[str, Any] = json.loads(
    importlib.resources.files("darkroom_pb").joinpath("openapi.json").read_bytes()
)
_URI = "urn:openapi"
_REGISTRY: Registry[Any] = Registry().with_resource(
    _URI, Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
)


def _pattern(
    _validator: object, pattern: str, instance: object, _schema: object
) -> Iterator[ValidationError]:
    """As ECMA-262 has it: in Python, `$` would let a line feed follow."""
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = extend(OAS31Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Offer:
    """One operation of the document."""

    path: str
    verb: str
    operation: dict[str, Any]

    @property
    def service(self) -> str:
        return str(self.operation["tags"][0])

    @property
    def method(self) -> str:
        return str(self.operation["operationId"].split("_")[1])

    @property
    def is_served(self) -> bool:
        """Whether it ever answers anything but errors."""
        return "200" in self.operation["responses"]

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """Of path, query and headers."""
        shared = DOCUMENT["components"]["parameters"]
        return [
            shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each
            for each in self.operation.get("parameters", ())
        ]

    @property
    def body(self) -> dict[str, Any] | None:
        """The schema of the body, if there is one."""
        body = self.operation.get("requestBody")
        return body and body["content"]["application/json"]["schema"]

    def answer(self, status: int) -> dict[str, Any]:
        """The schema of the answer with an HTTP status."""
        answers = self.operation["responses"]
        assert str(status) in answers, f"{self.verb} {self.path} has no answer {status}"
        answer = answers[str(status)]
        if "$ref" in answer:
            answer = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        schema: dict[str, Any] = answer["content"]["application/json"]["schema"]
        return schema


OFFERS = [
    Offer(path, verb, operation)
    for path, verbs in DOCUMENT["paths"].items()
    for verb, operation in verbs.items()
]


def offer(operation_id: str) -> Offer:
    """The operation of that id."""
    (found,) = (each for each in OFFERS if each.operation["operationId"] == operation_id)
    return found


def served_at(verb: str, path: str) -> Offer | None:
    """The operation behind a verb and a path, a query included, if there is one."""
    bare = path.partition("?")[0]
    fitting = [
        each
        for each in OFFERS
        if each.verb == verb.lower()
        and re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(each.path)), bare)
    ]
    # `images:latestByFamily` is more than the id of an image.
    return max(fitting, key=lambda each: len(re.sub(r"\{\w+\}", "", each.path)), default=None)


def faults(instance: object, schema: dict[str, Any]) -> list[str]:
    """What is wrong with JSON by a schema of the document, formats included."""
    judge = _judge(json.dumps(schema))
    return [f"{each.json_path}: {each.message}" for each in judge.iter_errors(instance)]


@functools.cache
def _judge(schema: str) -> Any:
    # Its references lead into the document.
    anchored = {"$id": f"{_URI}/here", **json.loads(schema.replace('"#/', f'"{_URI}#/'))}
    checker = OAS31Validator.FORMAT_CHECKER
    return _Validator(anchored, registry=_REGISTRY, format_checker=checker)
