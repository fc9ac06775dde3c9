"""An OpenAPI 3.1 document of the REST surface that Envoy's transcoder makes of our protos.

Paths, parameters and bodies come from `google.api.http`, schemas from the messages and their
`(yandex.cloud.*)` rules, descriptions from the comments, errors from the codes that the comments
name, and whether a token is needed from the table of permissions.

Own code, because no generator that pip or npm installs does it: those that write version 3.1 from
`google.api.http` (grpc-gateway's protoc-gen-openapiv3, an alpha; protoc-gen-connect-openapi) are Go
programs, and none knows the rules, the types behind an Operation or the details of our errors.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2

from darkroom.api.permissions import PERMISSIONS, PUBLIC
from darkroom.domain.bounds import RuleError
from json_schema import Schema, Schemas
from protos import Declared, Protos

OPERATION = "yandex.cloud.operation.Operation"
STATUS = "google.rpc.Status"

DETAILS = {
    "google.rpc.BadRequest": "Every field of the request that is wrong.",
    "google.rpc.ResourceInfo": "The resource that is missing or in the way.",
    "google.rpc.PreconditionFailure": "What must be true first.",
    "yandex.cloud.quota.QuotaFailure": "",
    "google.rpc.RetryInfo": "When the same request may be sent again.",
    "google.rpc.ErrorInfo": "The reason, which programs may go by, and what to do.",
    "google.rpc.RequestInfo": "The id under which the server has logged the request.",
}
"""What may be among the details of an error; descriptions where the protos have none of ours."""

CODES = {
    "INVALID_ARGUMENT": (400, "the request is malformed or breaks a rule."),
    "FAILED_PRECONDITION": (400, "the state of a resource does not allow it."),
    "UNAUTHENTICATED": (401, "there is no token, or it is not accepted."),
    "PERMISSION_DENIED": (403, "the caller, or the page in a browser that calls, may not do this."),
    "NOT_FOUND": (404, "there is no such resource."),
    "ALREADY_EXISTS": (409, "there is such a resource already."),
    "RESOURCE_EXHAUSTED": (429, "a quota is used up, or the server has too much to do."),
    "INTERNAL": (500, "the server has a fault; its log has the request's id."),
    "UNIMPLEMENTED": (501, "the method is not offered here."),
    "UNAVAILABLE": (503, "the server cannot answer now; try again."),
    "DEADLINE_EXCEEDED": (504, "the answer took too long."),
}
"""The HTTP status that Envoy gives to a gRPC code, and what it means where no comment says it."""

_EVERYWHERE = (
    "INVALID_ARGUMENT",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
)
_FROM_GATEWAY = {
    408: "DEADLINE_EXCEEDED: the request did not arrive in time.",
    413: "RESOURCE_EXHAUSTED: the body of the request is too large.",
    431: "RESOURCE_EXHAUSTED: the headers of the request are too large.",
    502: "UNAVAILABLE: the gateway cannot reach the server.",
}
"""What Envoy answers by itself, besides 400, 503 and 504."""
_CODE_LINE = re.compile(r"^([A-Z_]+): (.*)$", re.MULTILINE)
_NOT_OFFERED = "Not offered here: UNIMPLEMENTED."
_VERBS = ("get", "put", "post", "delete", "patch")

_DESCRIPTION = """\
Images, disks, snapshots and operations, in the shapes of the Yandex Compute Cloud API.

Methods that change something answer with an operation; ask for it by its id until `done` is true.
Numbers of 64 bits are strings, times are RFC 3339 in UTC, and what has its default value may be
left out of an answer. The same methods are served over gRPC and gRPC-Web.
"""


def openapi(descriptor_set: bytes) -> bytes:
    """The document, as JSON. The same descriptor set gives the same bytes. Raises `RuleError`."""
    document = _Document(Protos.read(descriptor_set)).made()
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


@dataclass(frozen=True)
class _Binding:
    """One way to call a method over HTTP."""

    verb: str
    template: str
    body: str

    @classmethod
    def of(cls, rule: Any) -> "_Binding":
        verb = rule.WhichOneof("pattern")
        if verb not in _VERBS or rule.body not in ("", "*") or rule.response_body:
            raise RuleError(f"unknown kind of binding: {rule}")
        return cls(verb, getattr(rule, verb), rule.body)

    @property
    def in_path(self) -> list[str]:
        """Names of the fields that stand in the path."""
        names = re.findall(r"\{([^}]*)\}", self.template)
        if not all(name.isidentifier() for name in names):
            raise RuleError(f"unknown kind of path: {self.template}")
        return names


class _Document:
    def __init__(self, protos: Protos) -> None:
        self._protos = protos
        self._schemas = Schemas(protos)
        self._paths: dict[str, Schema] = {}
        self._bodies: dict[str, Schema] = {}
        self._refusals: dict[str, Schema] = {}

    def made(self) -> Schema:
        """The whole document."""
        tags = []
        for name, service in sorted(self._protos.services.items()):
            for method in service.proto.method:
                self._method(name, service, method)
            description = self._schemas.text(service.comment)
            tags.append({"name": service.proto.name, "description": description})
        for name, description in DETAILS.items():
            self._schemas.packed(name)
            if description:
                self._schemas.made[name] = {"description": description} | self._schemas.made[name]
        if ambiguous := self._schemas.made.keys() & self._bodies.keys():
            raise RuleError(f"bodies and answers share {', '.join(sorted(ambiguous))}")
        schemas = self._schemas.made | self._bodies
        schemas[STATUS] = self._status(schemas[STATUS])
        return {
            "openapi": "3.1.1",
            "info": {
                "title": "Darkroom",
                "version": "v1",
                "description": _DESCRIPTION,
                "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{"token": []}],
            "tags": tags,
            "paths": dict(sorted(self._paths.items())),
            "components": {
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "An IAM token, as IamTokenService.Create makes them.",
                    }
                },
                "parameters": {
                    "idempotencyKey": {
                        "name": "idempotency-key",
                        "in": "header",
                        "description": "A UUID. The same request with the same key gives the same "
                        "operation again instead of doing the work twice.",
                        "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,62}[!-~])?$"},
                    }
                },
                "responses": dict(sorted(self._refusals.items())),
                "schemas": dict(sorted(schemas.items())),
            },
        }

    # --- methods ----------------------------------------------------------------------------------

    def _method(self, service_name: str, service: Declared, method: Any) -> None:
        rule = self._protos.option(method.options, "google.api.http")
        if not rule.WhichOneof("pattern"):
            return
        comment = self._schemas.text(self._protos.comments[f"{service_name}.{method.name}"])
        description = _CODE_LINE.sub("", comment).strip()
        path = f"/{service_name}/{method.name}"
        public = PERMISSIONS[path] == PUBLIC
        for index, each in enumerate((rule, *rule.additional_bindings)):
            binding = _Binding.of(each)
            name = f"{service.proto.name}_{method.name}" + (f"_{binding.verb}" if index else "")
            operation: Schema = {
                "operationId": name,
                "tags": [service.proto.name],
                "summary": description.partition(". ")[0].partition("\n")[0].rstrip("."),
                "description": description,
            }
            if public:
                operation["security"] = []
            parameters = self._parameters(method, binding)
            if parameters:
                operation["parameters"] = parameters
            if binding.body:
                schema = self._body(method.input_type[1:], frozenset(binding.in_path))
                content = {"application/json": {"schema": schema}}
                operation["requestBody"] = {"required": True, "content": content}
            responses = self._responses(service.package, method, comment, public)
            if "200" in responses and self._operation_option(method).metadata:
                responses["200"]["links"] = self._links(service, method, binding)
            operation["responses"] = responses
            template = re.sub(
                r"\{(\w+)\}", lambda found: f"{{{_camel(found[1])}}}", binding.template
            )
            self._paths.setdefault(template, {})[binding.verb] = operation

    def _parameters(self, method: Any, binding: _Binding) -> list[Schema]:
        message_name = method.input_type[1:]
        message = self._protos.messages[message_name].proto
        parameters = []
        for field in message.field:
            if field.name in binding.in_path:
                parameters.append(self._in_path(message_name, field))
            elif not binding.body:
                parameters += self._in_query(message_name, field)
        if self._operation_option(method).metadata:
            parameters.append({"$ref": "#/components/parameters/idempotencyKey"})
        return parameters

    def _in_path(self, owner: str, field: Any) -> Schema:
        schema = self._schemas.field(owner, field, in_query=True)
        description = schema.pop("description", "")
        schema.setdefault("minLength", 1)
        return {
            "name": field.json_name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": schema,
        }

    def _in_query(self, owner: str, field: Any, prefix: str = "") -> list[Schema]:
        """A parameter for a field, or one for each field of the message that it holds."""
        inner = field.type_name.removeprefix(".")
        schema = self._schemas.field(owner, field, in_query=True)
        if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE and "$ref" in schema:
            fields = self._protos.messages[inner].proto.field
            name = f"{prefix}{field.json_name}."
            return [each for one in fields for each in self._in_query(inner, one, name)]
        description = schema.pop("description", "")
        parameter: Schema = {"name": prefix + field.json_name, "in": "query"}
        if not prefix and self._protos.rules(field.options).required:
            parameter["required"] = True
        if schema.pop("deprecated", False):
            parameter["deprecated"] = True
        return [parameter | {"description": description, "schema": schema}]

    def _body(self, message_name: str, in_path: frozenset[str]) -> Schema:
        schema = self._schemas.message(message_name, without=in_path)
        if self._bodies.setdefault(message_name, schema) != schema:
            raise RuleError(f"{message_name} is a body of two shapes")
        return {"$ref": f"#/components/schemas/{message_name}"}

    # --- answers ----------------------------------------------------------------------------------

    def _responses(self, package: str, method: Any, comment: str, public: bool) -> Schema:
        named = dict(_CODE_LINE.findall(comment))
        codes = {*_EVERYWHERE, *(() if public else ("UNAUTHENTICATED",)), *named}
        responses: Schema = {}
        if _NOT_OFFERED in comment:
            codes.add("UNIMPLEMENTED")
        else:
            content = {"application/json": {"schema": self._answer(package, method)}}
            begun = self._operation_option(method).metadata
            description = "The operation, begun or already done." if begun else "The answer."
            responses["200"] = {"description": description, "content": content}
        for status in sorted({CODES[code][0] for code in codes}):
            alike = [code for code in CODES if code in codes and CODES[code][0] == status]
            if len(alike) == 1 and alike[0] not in named:
                responses[str(status)] = self._shared(alike[0], f"{alike[0]}: {CODES[alike[0]][1]}")
            else:
                lines = [f"{code}: {named.get(code, CODES[code][1])}" for code in alike]
                responses[str(status)] = self._refusal("\n\n".join(lines))
        for status, description in _FROM_GATEWAY.items():
            responses[str(status)] = self._shared(f"gateway.{status}", description)
        return dict(sorted(responses.items()))

    def _answer(self, package: str, method: Any) -> Schema:
        """The schema of what a method answers; of an operation, with the types that it holds."""
        answer = self._schemas.reference(method.output_type[1:])
        option = self._operation_option(method)
        if not option.metadata:
            return answer
        holds = {
            name: self._schemas.packed(self._resolved(package, getattr(option, name)))
            for name in ("metadata", "response")
        }
        return {"type": "object", "allOf": [answer], "properties": holds}

    def _links(self, service: Declared, method: Any, binding: _Binding) -> Schema:
        """What can be asked of the operation that a method answers, and of what it makes."""
        links = {
            f"OperationService_{name}": {"operationId": "$response.body#/id"}
            for name in ("Get", "Cancel")
        }
        metadata = self._resolved(service.package, self._operation_option(method).metadata)
        made = self._protos.messages[metadata].proto.field
        if not binding.in_path and len(made) == 1:
            for other in service.proto.method:
                rule = self._protos.option(other.options, "google.api.http")
                in_path = _Binding.of(rule).in_path if rule.WhichOneof("pattern") else []
                if len(in_path) == 1:
                    found = f"$response.body#/metadata/{made[0].json_name}"
                    links[f"{service.proto.name}_{other.name}"] = {_camel(in_path[0]): found}
        return {
            name: {"operationId": name, "parameters": parameters}
            for name, parameters in links.items()
        }

    def _operation_option(self, method: Any) -> Any:
        return self._protos.option(method.options, "yandex.cloud.api.operation")

    def _resolved(self, package: str, name: str) -> str:
        """The full name of a message that an option names, looked up from a package outwards."""
        scopes = package.split(".")
        for depth in range(len(scopes), -1, -1):
            candidate = ".".join([*scopes[:depth], name])
            if candidate in self._protos.messages:
                return candidate
        raise RuleError(f"no message {name} can be seen from {package}")

    def _shared(self, name: str, description: str) -> Schema:
        """A reference to an answer that many methods have."""
        self._refusals[name] = self._refusal(description)
        return {"$ref": f"#/components/responses/{name}"}

    def _refusal(self, description: str) -> Schema:
        content = {"application/json": {"schema": self._schemas.reference(STATUS)}}
        return {"description": description, "content": content}

    def _status(self, schema: Schema) -> Schema:
        """The schema of google.rpc.Status, with the types that its details have."""
        packed = {name: self._schemas.packed(name) for name in DETAILS}
        mapping = {f"type.googleapis.com/{name}": each["$ref"] for name, each in packed.items()}
        items = {
            "oneOf": list(packed.values()),
            "discriminator": {"propertyName": "@type", "mapping": mapping},
        }
        code, message = schema["properties"]["code"], schema["properties"]["message"]
        return schema | {
            "description": "Why something failed.",
            "properties": {
                "code": {"description": "Number of a google.rpc.Code.", **code},
                "message": {"description": "What a person should know.", **message},
                "details": {
                    "description": "What programs can go by.",
                    "type": "array",
                    "items": items,
                },
            },
        }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
