"""Reads the operator's catalogue: an entry is a request to create an image, written in YAML.

So it keeps the rules of the API, by the validator of the API; only its sources are its own.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from darkroom.api.validation import Validator
from darkroom.config import Settings
from darkroom.domain.errors import Failure, FieldViolation
from darkroom.domain.resource import Os, OsType
from darkroom.imaging.sources import SourcePolicy
from darkroom.operations.catalog import (
    READABLE_BY_EVERYONE,
    CatalogEntry,
    CatalogError,
    catalog_id,
)
from darkroom.operations.image_create import (
    BlankSource,
    CreateImage,
    FileSource,
    Source,
    UriSource,
)
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2

DEFAULT_FOLDER = "standard-images"
"""Where the cloud keeps its public images, and Terraform looks for families by default."""

_SOURCES = ("url", "file", "blank")
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d{1,18}) ?(KiB|MiB|GiB|TiB)?", re.ASCII)
_MAX_SIZE_BYTES = (1 << 63) - 1
_REQUEST_FIELDS = {"folder_id": "folder"}
"""How the request calls what the file calls otherwise."""

_judge_request = Validator().compile(image_service_pb2.CreateImageRequest.DESCRIPTOR)


# --- values ---------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text; put it in quotes")
    return value


def _filled(value: object) -> str:
    if not _text(value):
        raise ValueError("must not be empty")
    return _text(value)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of texts")
    return tuple(map(_text, value))


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of texts to texts")
    return {_text(key): _text(each) for key, each in value.items()}


def _size(value: object) -> int:
    """Bytes, or text such as "8 GiB"."""
    found = _SIZE.fullmatch(str(value)) if type(value) in (int, str) else None
    size_bytes = int(found[1]) * _UNITS[found[2] or ""] if found else 0
    if not 0 < size_bytes <= _MAX_SIZE_BYTES:
        raise ValueError("must be a size: a number of bytes, or one like 8 GiB")
    return size_bytes


def _os(value: object) -> Os:
    names = {name.lower(): type_ for name, type_ in OsType.__members__.items() if type_}
    if not (isinstance(value, str) and value in names):
        raise ValueError(f"must be one of {', '.join(names)}")
    return Os(names[value])


_FIELDS: dict[str, Callable[[object], Any]] = {
    "folder": _filled,
    "name": _filled,
    "family": _text,
    "description": _text,
    "labels": _labels,
    "os": _os,
    "product_ids": _texts,
    "min_disk_size": _size,
    "url": _filled,
    "file": _filled,
    "blank": _size,
}


# --- entries --------------------------------------------------------------------------------------


def read(settings: Settings) -> list[CatalogEntry]:
    """The entries of the configured catalogue in the order of the file; none without one.

    Raises `CatalogError` with every fault that was found, `OSError` for a file that is not there.
    """
    if not settings.catalog:
        return []
    path = Path(settings.catalog).absolute()
    try:
        document = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CatalogError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise CatalogError(f"{path} must hold a mapping with the list `images`")
    reader = _Reader(settings, path.parent)
    entries = [reader.entry(number, values) for number, values in enumerate(document["images"])]
    faults = [f"{key}: unknown; only `images` stands here" for key in document if key != "images"]
    faults += reader.faults
    if faults:
        raise CatalogError("\n  ".join([f"{path} has faults:", *faults]))
    return [entry for entry in entries if entry is not None]


class _Reader:
    """Reads entries one after the other and remembers what is wrong with them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._policy = SourcePolicy(settings.source_endpoints())
        self._max_size_bytes = settings.max_virtual_size
        self._folder = folder
        self._places: dict[str, str] = {}
        self.faults: list[str] = []

    def entry(self, number: int, given: object) -> CatalogEntry | None:
        """The entry, or None if it has a fault."""
        place = f"images[{number}]"
        if not isinstance(given, dict):
            self.faults.append(f"{place}: must be a mapping")
            return None
        if isinstance(given.get("name"), str):
            place += f" ({given['name']})"
        values: dict[str, Any] = {"folder": DEFAULT_FOLDER}
        violations = _parsed(given, values)
        # A value of the wrong type would break the rules below once more, in worse words.
        violations = violations or self._broken_rules(values)
        if not violations:
            image_id = catalog_id(values["folder"], values["name"])
            first = self._places.setdefault(image_id, place)
            if first != place:
                violations = [FieldViolation("name", f"{first} has it in this folder already")]
        self.faults += [f"{place}: {each.field}: {each.description}" for each in violations]
        return None if violations else CatalogEntry(place, self._command(values))

    def _broken_rules(self, values: Mapping[str, Any]) -> list[FieldViolation]:
        sources = [name for name in _SOURCES if name in values]
        violations = []
        if "name" not in values:
            violations.append(FieldViolation("name", "is missing"))
        if len(sources) != 1:
            text = f"exactly one of {', '.join(_SOURCES)} must be there"
            violations.append(FieldViolation(sources[1] if sources else "url", text))
        violations += _broken_request_rules(values)
        if "url" in values:
            try:
                self._policy.check(values["url"])
            except Failure as failure:
                violations.append(FieldViolation("url", failure.message))
        if "blank" in values:
            violations += self._broken_size_rules(values["blank"], values.get("min_disk_size"))
        return violations

    def _broken_size_rules(
        self, size_bytes: int, min_disk_size_bytes: int | None
    ) -> list[FieldViolation]:
        violations = []
        if size_bytes > self._max_size_bytes:
            text = f"must be at most {self._max_size_bytes} bytes"
            violations.append(FieldViolation("blank", text))
        if min_disk_size_bytes is not None and min_disk_size_bytes < size_bytes:
            text = f"must be at least {size_bytes}, the size of the image"
            violations.append(FieldViolation("min_disk_size", text))
        return violations

    def _command(self, values: Mapping[str, Any]) -> CreateImage:
        return CreateImage(
            folder_id=values["folder"],
            source=self._source(values),
            name=values["name"],
            description=values.get("description", ""),
            labels=values.get("labels", {}),
            family=values.get("family", ""),
            min_disk_size_bytes=values.get("min_disk_size", 0),
            product_ids=values.get("product_ids", ()),
            os=values.get("os"),
            image_id=catalog_id(values["folder"], values["name"]),
            bindings=(READABLE_BY_EVERYONE,),
        )

    def _source(self, values: Mapping[str, Any]) -> Source:
        if "url" in values:
            return UriSource(values["url"])
        if "file" in values:
            return FileSource(self._folder / values["file"])
        return BlankSource(values["blank"])


def _parsed(given: Mapping[object, object], values: dict[str, Any]) -> list[FieldViolation]:
    """Put the parsed fields into `values`; what could not be parsed."""
    violations = []
    for name, value in given.items():
        if name not in _FIELDS:
            text = f"unknown; known are {', '.join(_FIELDS)}"
            violations.append(FieldViolation(str(name), text))
            continue
        try:
            values[str(name)] = _FIELDS[str(name)](value)
        except ValueError as error:
            violations.append(FieldViolation(str(name), str(error)))
    return violations


def _broken_request_rules(values: Mapping[str, Any]) -> list[FieldViolation]:
    """What the API would say to a request with these fields, its source left aside."""
    request = image_service_pb2.CreateImageRequest(
        folder_id=values["folder"],
        name=values.get("name", ""),
        description=values.get("description", ""),
        labels=values.get("labels", {}),
        family=values.get("family", ""),
        min_disk_size=values.get("min_disk_size", 0),
        product_ids=values.get("product_ids", ()),
    )
    report: list[FieldViolation] = []
    _judge_request(request, "", report)
    return [
        FieldViolation(_REQUEST_FIELDS.get(each.field, each.field), each.description)
        for each in report
        if each.field != "source"
    ]
