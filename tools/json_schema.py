"""JSON schemas of protobuf messages, as the JSON mapping of proto3 writes them.

A schema allows what the rules of the service allow, and forbids what they forbid wherever JSON
Schema has words for it. A server may understand more than that: the mapping also reads `folder_id`
for `folderId`, 7 for "7" and an enum value's number for its name. Schemas are open, since servers
to come will know more fields.
"""

import re
from typing import Any, Literal

from google.protobuf import descriptor_pb2

from darkroom.domain.bounds import Bounds, RuleError
from protos import Protos, Rules

Schema = dict[str, Any]
Empty = Literal["fine", "judged", "refused"]
"""What a zero or empty value is: as good as left out, a value like any other, or not allowed."""

Type = descriptor_pb2.FieldDescriptorProto
_INTEGERS = {
    getattr(Type, f"TYPE_{name}"): ("uint" if name[0] in "UF" else "int") + name[-2:]
    for name in (
        *("INT32", "SINT32", "SFIXED32", "UINT32", "FIXED32"),
        *("INT64", "SINT64", "SFIXED64", "UINT64", "FIXED64"),
    )
}
_OTHER_SCALARS: dict[int, Schema] = {
    Type.TYPE_BOOL: {"type": "boolean"},
    Type.TYPE_DOUBLE: {"type": "number", "format": "double"},
    Type.TYPE_FLOAT: {"type": "number", "format": "float"},
    Type.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(?:\.[0-9]{1,9})?s$"},
    # Names of fields as they are in JSON, dotted where they are nested, with commas between.
    "google.protobuf.FieldMask": {
        "type": "string",
        "pattern": "^(?:[a-z][a-zA-Z0-9.]*(?:,[a-z][a-zA-Z0-9.]*)*)?$",
    },
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
    },
}
# Python's, and not ECMA-262's: named groups, flags, anchors of the whole text.
_NOT_ECMA = re.compile(r"\(\?[^:=!<]|\\[AZ]")


class Schemas:
    """The schemas of a document, each made when it is first referred to."""

    def __init__(self, protos: Protos) -> None:
        self.protos = protos
        self._json_names = {
            each.name: each.json_name
            for name, message in protos.messages.items()
            if name.startswith("yandex.")
            for each in message.proto.field
        }
        self.made: dict[str, Schema] = {}

    def reference(self, full_name: str) -> Schema:
        """A reference to the schema of a message or an enum. Raises `RuleError`."""
        if full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[full_name])
        if full_name.startswith("google.protobuf."):
            raise RuleError(f"{full_name} has a JSON form of its own, which is not known here")
        if full_name not in self.made:
            self.made[full_name] = {}  # Messages may contain themselves.
            make = self._enum if full_name in self.protos.enums else self.message
            self.made[full_name] = make(full_name)
        return {"$ref": f"#/components/schemas/{full_name}"}

    def packed(self, full_name: str) -> Schema:
        """A reference to the schema of a message inside a google.protobuf.Any."""
        name = f"any.{full_name}"
        if name not in self.made:
            self.made[name] = {
                "type": "object",
                "properties": {"@type": {"const": f"type.googleapis.com/{full_name}"}},
                "required": ["@type"],
                "allOf": [self.reference(full_name)],
            }
        return {"$ref": f"#/components/schemas/{name}"}

    def message(self, full_name: str, without: frozenset[str] = frozenset()) -> Schema:
        """The schema of a message less some of its fields. Raises `RuleError`."""
        declared = self.protos.messages[full_name]
        fields = [each for each in declared.proto.field if each.name not in without]
        required = [each.json_name for each in fields if self._is_required(each)]
        constraints = [
            constraint
            for index in range(len(declared.proto.oneof_decl))
            if (constraint := self._oneof_constraint(declared.proto, index))
        ]
        return _without_empty(
            {
                "description": self.text(declared.comment),
                "type": "object",
                "properties": {each.json_name: self.field(full_name, each) for each in fields},
                "required": required,
                **(constraints[0] if len(constraints) == 1 else {"allOf": constraints}),
            }
        )

    def field(self, owner: str, field: Any, *, in_query: bool = False) -> Schema:
        """The schema of a field of a message: in a body, or as a parameter of a query."""
        schema = self._shape(owner, field, in_query)
        comment = self.protos.comments[f"{owner}.{field.name}"]
        # What a filter names is not JSON and keeps its names.
        lines = [comment if field.name == "filter" else self.text(comment)]
        members = self._members(self.protos.messages[owner].proto, field)
        if len(members) > 1:
            names = ", ".join(f"`{each.json_name}`" for each in members)
            oneof = self.protos.messages[owner].proto.oneof_decl[field.oneof_index]
            how_many, may = ("Exactly", "must") if self._exactly_one(oneof) else ("At most", "may")
            lines.append(f"{how_many} one of {names} {may} be there.")
        schema["description"] = "\n\n".join(filter(None, lines))
        schema["deprecated"] = field.options.deprecated
        return _without_empty(schema)

    def text(self, comment: str) -> str:
        """A comment with fields called by the names that they have in JSON."""
        return re.sub(
            r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b",
            lambda found: self._json_names.get(found[0], found[0]),
            comment,
        )

    # --- fields and oneofs ------------------------------------------------------------------------

    def _shape(self, owner: str, field: Any, in_query: bool) -> Schema:
        rules = self.protos.rules(field.options)
        entry = self.protos.messages.get(field.type_name.removeprefix("."))
        if field.label != Type.LABEL_REPEATED:
            return self._value(field, rules, self._empty(owner, field), in_query)
        if entry is None or not entry.proto.options.map_entry:
            items = self._value(field, rules, "judged", in_query)
            return {"type": "array", "items": items, **_sized("Items", rules)} | (
                {"uniqueItems": True} if rules.unique else {}
            )
        key, value = entry.proto.field
        if key.type != Type.TYPE_STRING:
            raise RuleError(f"{owner}.{field.name}: only strings are known as keys of maps")
        names = _string(rules.map_key or Rules(), "judged")
        return {
            "type": "object",
            **({"propertyNames": names} if len(names) > 1 else {}),
            "additionalProperties": self._value(value, rules, "judged", in_query=False),
            **_sized("Properties", rules),
        }

    def _value(self, field: Any, rules: Rules, empty: Empty, in_query: bool) -> Schema:
        """The schema of one value: of a field, of an element of a list or of a value of a map."""
        name = field.type_name.removeprefix(".")
        if field.type == Type.TYPE_STRING:
            return _string(rules, empty)
        if field.type == Type.TYPE_MESSAGE:
            return self.reference(name)
        if field.type == Type.TYPE_ENUM:
            zero = self.protos.enums[name].proto.value[0].name
            return self.reference(name) | ({"not": {"const": zero}} if empty == "refused" else {})
        if field.type not in _INTEGERS:
            return dict(_OTHER_SCALARS[field.type])
        form = _INTEGERS[field.type]
        # In a query everything is text anyway, and of numbers more can be said.
        if in_query or form.endswith("32"):
            return _integer(form, rules, empty)
        return _decimal(form, rules, empty)

    def _is_required(self, field: Any) -> bool:
        rules = self.protos.rules(field.options)
        return rules.required or (rules.size is not None and (rules.size.low or 0) > 0)

    def _empty(self, owner: str, field: Any) -> Empty:
        """What a zero or empty value of a single field is."""
        if field.HasField("oneof_index") and not field.proto3_optional:
            oneof = self.protos.messages[owner].proto.oneof_decl[field.oneof_index]
            texts = (Type.TYPE_STRING, Type.TYPE_BYTES)
            return "refused" if self._exactly_one(oneof) and field.type in texts else "judged"
        if field.proto3_optional:
            return "judged"
        return "refused" if self._is_required(field) else "fine"

    def _exactly_one(self, oneof: Any) -> bool:
        return bool(self.protos.option(oneof.options, "yandex.cloud.exactly_one"))

    def _members(self, message: Any, field: Any) -> list[Any]:
        """The fields of the oneof that a field is in."""
        if not field.HasField("oneof_index"):
            return []
        return [each for each in message.field if _in_oneof(each, field.oneof_index)]

    def _oneof_constraint(self, message: Any, index: int) -> Schema:
        names = [each.json_name for each in message.field if _in_oneof(each, index)]
        alone = [{"required": [name]} for name in names]
        if self._exactly_one(message.oneof_decl[index]):
            return {"oneOf": alone}
        if len(names) < 2:
            return {}
        if len(names) == 2:
            return {"not": {"required": names}}
        return {"oneOf": [*alone, {"not": {"anyOf": alone}}]}

    def _enum(self, full_name: str) -> Schema:
        declared = self.protos.enums[full_name]
        names = [value.name for value in declared.proto.value]
        lines = [f"- `{name}`: {self.protos.comments[f'{full_name}.{name}']}" for name in names]
        description = "\n\n".join(filter(None, (declared.comment, "\n".join(lines))))
        return {"description": self.text(description), "type": "string", "enum": names}


# --- values ---------------------------------------------------------------------------------------


def _string(rules: Rules, empty: Empty) -> Schema:
    if _NOT_ECMA.search(rules.pattern):
        raise RuleError(f'"{rules.pattern}" is not a regular expression of ECMA-262')
    low, high = (rules.length.low or 0, rules.length.high) if rules.length else (0, None)
    shortest: dict[Empty, int] = {"fine": 0, "judged": low, "refused": max(low, 1)}
    left_out = "?" if empty == "fine" and not re.fullmatch(rules.pattern, "") else ""
    return _without_empty(
        {
            "type": "string",
            "minLength": shortest[empty] or None,
            "maxLength": high,
            "pattern": rules.pattern and f"^(?:{rules.pattern}){left_out}$",
        }
    )


def _integer(form: str, rules: Rules, empty: Empty) -> Schema:
    bounds = rules.value or Bounds(None, None)
    schema: Schema = {"type": "integer", "format": form}
    if bounds.low is not None:
        schema["minimum"] = bounds.low
    if bounds.high is not None:
        schema["maximum"] = bounds.high
    if empty == "refused" and 0 in bounds:
        return schema | {"not": {"const": 0}}
    if empty == "fine" and 0 not in bounds:
        return {"anyOf": [schema, {"const": 0}]}
    return schema


def _decimal(form: str, rules: Rules, empty: Empty) -> Schema:
    """Numbers that not every language has are strings in JSON, for which `minimum` means nothing.

    Raises:
        RuleError: the rule has no lower or no upper end, or lets negative numbers through.
    """
    schema = {"type": "string", "format": form}
    if rules.value is None:
        return schema | {"pattern": "^[0-9]{1,20}$" if form[0] == "u" else "^-?[0-9]{1,19}$"}
    low, high = rules.value.low, rules.value.high
    if low is None or high is None or low < 0:
        raise RuleError(f"no pattern for whole numbers that are {rules.value}")
    patterns = decimals(low, high)
    if empty == "fine" and low > 0:
        patterns.insert(0, "0")
    return schema | {"pattern": f"^(?:{'|'.join(patterns)})$"}


def decimals(low: int, high: int) -> list[str]:
    """Regular expressions of which one matches a whole number, from 0 up, if it is in between."""
    first, last = str(low), str(high)
    shorter, longer = len(first), len(last)
    if shorter == longer:
        return _same_length(first, last)
    between = []
    if longer - shorter > 1:
        between = [f"[1-9][0-9]{{{shorter},{longer - 2}}}"]
    return [
        *_same_length(first, "9" * shorter),
        *between,
        *_same_length("1" + "0" * (longer - 1), last),
    ]


def _same_length(first: str, last: str) -> list[str]:
    """The same for numbers with equally many digits."""
    if not first:
        return [""]
    rest = len(first) - 1
    zeros, nines = "0" * rest, "9" * rest
    if first[0] == last[0]:
        return [first[0] + each for each in _same_length(first[1:], last[1:])]
    patterns = []
    low, high = int(first[0]), int(last[0])
    if first[1:] != zeros:
        patterns += [first[0] + each for each in _same_length(first[1:], nines)]
        low += 1
    ending = []
    if last[1:] != nines:
        ending = [last[0] + each for each in _same_length(zeros, last[1:])]
        high -= 1
    if low <= high:
        digit = str(low) if low == high else f"[{low}-{high}]"
        patterns.append(digit + {0: "", 1: "[0-9]"}.get(rest, f"[0-9]{{{rest}}}"))
    return patterns + ending


def _sized(what: str, rules: Rules) -> Schema:
    """Bounds of a list (`Items`) or a map (`Properties`)."""
    low, high = (rules.size.low, rules.size.high) if rules.size else (None, None)
    low = low or (1 if rules.required else None)
    return _without_empty({f"min{what}": low, f"max{what}": high})


def _in_oneof(field: Any, index: int) -> bool:
    return field.HasField("oneof_index") and bool(field.oneof_index == index)


def _without_empty(schema: Schema) -> Schema:
    """Keywords that say nothing, left out."""
    nothing: tuple[object, ...] = ("", [], {}, None)
    return {
        name: value for name, value in schema.items() if value is not False and value not in nothing
    }
