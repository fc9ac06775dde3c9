"""Update masks: which fields of a request are meant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from darkroom.domain import errors


@dataclass(frozen=True)
class Updatable:
    """One field that Update may change: its domain name and its value in a request.

    A name with a dot is that of a field inside a field.
    """

    name: str
    value: Callable[[Any], Any]


def changes(request: Message, updatable: Mapping[str, Updatable]) -> dict[str, Any]:
    """What a request changes, by domain names.

    Without a mask every updatable field is meant, those left out with their defaults (cloud
    docs). Fields inside a field come after it, so that naming both means both. Raises `Failure`
    that names each path which is unknown or cannot be changed.
    """
    paths = list(request.update_mask.paths)  # type: ignore[attr-defined]
    fields = request.DESCRIPTOR.fields_by_name
    violations = []
    for path in paths:
        if path not in updatable:
            known = "cannot be changed" if path.partition(".")[0] in fields else "is no field"
            allowed = ", ".join(updatable)
            description = f'"{path[:100]}" {known}; one of {allowed} can'
            violations.append(errors.FieldViolation("update_mask", description))
    if violations:
        raise errors.request_invalid(violations)
    whole = [path for path in updatable if "." not in path]
    chosen = [updatable[path] for path in sorted(paths or whole, key=lambda path: "." in path)]
    return {each.name: each.value(request) for each in chosen}
