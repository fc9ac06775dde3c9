"""Our messages, enums and methods are those of the official SDK, and both fit on one machine."""

import base64
import hashlib
import importlib
import importlib.metadata
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.message import Message

from clients.environments import YANDEXCLOUD, environment, pip
from darkroom_pb.yandex.cloud import validation_pb2
from darkroom_pb.yandex.cloud.api import operation_pb2 as api_operation_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
NAMES = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
DUMP = Path(__file__).with_name("dump_descriptors.py")

IMAGE_SERVICE = "yandex/cloud/compute/v1/image_service.proto"
FOLDER_SERVICE = "yandex/cloud/resourcemanager/v1/folder_service.proto"
OPERATION_SERVICE = "yandex/cloud/operation/operation_service.proto"
CANCEL = "yandex.cloud.operation.OperationService.Cancel"

# The first run on a machine downloads the SDK.
pytestmark = pytest.mark.timeout(900)

File = descriptor_pb2.FileDescriptorProto


# --- the same on the wire -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official() -> dict[str, File]:
    """Descriptors that the official SDK has of the .proto files that we have."""
    python = environment("yandexcloud", [YANDEXCLOUD])
    finished = subprocess.run([python, DUMP, *NAMES], check=True, capture_output=True, timeout=60)
    dumped = descriptor_pb2.FileDescriptorSet.FromString(finished.stdout)
    return {file.name: file for file in dumped.file}


def ours(name: str) -> File:
    """Our own descriptor of a .proto file."""
    module = "darkroom_pb." + name.removesuffix(".proto").replace("/", ".") + "_pb2"
    described = File()
    importlib.import_module(module).DESCRIPTOR.CopyToProto(described)
    return described


def elements(file: File) -> dict[str, str]:
    """Everything in a file that clients depend on, by its kind and full name.

    The validation options of compute are left out: the official package has dropped them there. So
    are the imports, which only those options need.
    """
    found: dict[str, str] = {}
    found[f"file {file.name}"] = f"{file.syntax} {file.package} {text(file.options)}"
    for extension in file.extension:
        found[f"extension {file.package}.{extension.name}"] = text(extension)
    for message in file.message_type:
        found |= message_elements(file.package, message)
    for enum in file.enum_type:
        found |= enum_elements(file.package, enum)
    for service in file.service:
        full_name = f"{file.package}.{service.name}"
        found[f"service {full_name}"] = text(service.options)
        for method in service.method:
            found[f"method {full_name}.{method.name}"] = text(method)
    return found


def message_elements(scope: str, message: descriptor_pb2.DescriptorProto) -> dict[str, str]:
    """A message, its fields, its oneofs and whatever is declared inside it."""
    full_name = f"{scope}.{message.name}"
    found: dict[str, str] = {}
    with_validation = not scope.startswith("yandex.cloud.compute.")
    for field in message.field:
        found[f"field {full_name}.{field.name}"] = text(field, with_validation)
    for oneof in message.oneof_decl:
        found[f"oneof {full_name}.{oneof.name}"] = text(oneof, with_validation)
    for inner in message.nested_type:
        found |= message_elements(full_name, inner)
    for enum in message.enum_type:
        found |= enum_elements(full_name, enum)
    # What is left: reserved ranges and names, extension ranges, options such as map_entry.
    rest = descriptor_pb2.DescriptorProto.FromString(message.SerializeToString())
    rest.ClearField("field")
    rest.ClearField("oneof_decl")
    rest.ClearField("nested_type")
    rest.ClearField("enum_type")
    found[f"message {full_name}"] = text(rest)
    return found


def enum_elements(scope: str, enum: descriptor_pb2.EnumDescriptorProto) -> dict[str, str]:
    """An enum with all its values."""
    return {f"enum {scope}.{enum.name}": text(enum)}


VALIDATION = {
    descriptor_pb2.FieldOptions: [
        "required",
        "pattern",
        "value",
        "size",
        "length",
        "unique",
        "map_key",
        "bytes",
    ],
    descriptor_pb2.OneofOptions: ["exactly_one"],
}


def text(described: Message, with_validation: bool = True) -> str:
    """Everything that a descriptor says, with or without validation, in an order of its own."""
    stripped = type(described).FromString(described.SerializeToString())
    options = getattr(stripped, "options", None)
    judged = (descriptor_pb2.FieldOptions, descriptor_pb2.OneofOptions)
    if isinstance(options, judged) and not with_validation:
        for name in VALIDATION[type(options)]:
            options.ClearExtension(getattr(validation_pb2, name))
    if isinstance(options, Message) and not options.ByteSize():
        stripped.ClearField("options")
    return text_format.MessageToString(stripped, print_unknown_fields=True)


@pytest.mark.parametrize("name", NAMES)
def test_file_is_wire_identical(name: str, official: dict[str, File]) -> None:
    mine, theirs = elements(ours(name)), elements(official[name])
    assert mine
    if name == OPERATION_SERVICE:
        # The one addition we make.
        cancel = ours(name).service[0].method[1]
        added = cancel.options.Extensions[annotations_pb2.http].additional_bindings
        assert [binding.post for binding in added] == ["/operations/{operation_id}:cancel"]
        del added[:]
        mine[f"method {CANCEL}"] = text(cancel)
    assert mine == theirs


def test_every_kind_of_element_is_compared(official: dict[str, File]) -> None:
    kinds = [element.split()[0] for name in NAMES for element in elements(official[name])]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    # Map entries are messages of two fields each: labels of images, disks, snapshots, clouds and
    # folders (three each), of a schedule and of its snapshots, and policy parameters.
    maps = 5 * 3 + 2 + 1
    assert counts == {
        "enum": 9,
        "extension": 10,
        "field": 363 + 2 * maps,
        "file": 26,
        "message": 127 + maps,
        "method": 68,
        "oneof": 7,
        "service": 10,
    }


def request(file: File, name: str) -> descriptor_pb2.DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def renumber(file: File) -> None:
    request(file, "GetImageRequest").field[0].number = 7


def rename(file: File) -> None:
    request(file, "GetImageRequest").field[0].name = "id"


def retype(file: File) -> None:
    request(file, "ListImagesRequest").field[
        1
    ].type = descriptor_pb2.FieldDescriptorProto.TYPE_INT32


def repeat(file: File) -> None:
    field = request(file, "CreateImageRequest").field[0]
    field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def leave_oneof(file: File) -> None:
    request(file, "CreateImageRequest").field[8].ClearField("oneof_index")


def rename_oneof(file: File) -> None:
    request(file, "CreateImageRequest").oneof_decl[0].name = "origin"


def release(file: File) -> None:
    request(file, "CreateImageRequest").reserved_range[0].end -= 1


def drop_field(file: File) -> None:
    del request(file, "CreateImageRequest").field[-1]


def drop_method(file: File) -> None:
    del file.service[0].method[-1]


def stream(file: File) -> None:
    file.service[0].method[0].server_streaming = True


def rebind(file: File) -> None:
    file.service[0].method[3].options.Extensions[annotations_pb2.http].body = ""


def misname_metadata(file: File) -> None:
    options = file.service[0].method[3].options
    options.Extensions[api_operation_pb2.operation].metadata = "UpdateImageMetadata"


@pytest.mark.parametrize(
    "change",
    [
        renumber,
        rename,
        retype,
        repeat,
        leave_oneof,
        rename_oneof,
        release,
        drop_field,
        drop_method,
        stream,
        rebind,
        misname_metadata,
    ],
)
def test_comparison_notices(change: Callable[[File], None]) -> None:
    changed = ours(IMAGE_SERVICE)
    change(changed)
    assert elements(changed) != elements(ours(IMAGE_SERVICE))


def test_comparison_notices_an_enum_value() -> None:
    changed = ours("yandex/cloud/compute/v1/image.proto")
    changed.message_type[0].enum_type[0].value[2].number = 9
    assert elements(changed) != elements(ours(changed.name))


def test_comparison_notices_a_limit() -> None:
    changed = ours(FOLDER_SERVICE)
    options = request(changed, "CreateFolderRequest").field[2].options
    options.Extensions[validation_pb2.length] = "<=257"
    assert elements(changed) != elements(ours(FOLDER_SERVICE))


# --- side by side ---------------------------------------------------------------------------------


def installed(python: Path, distribution: str) -> importlib.metadata.Distribution:
    (site_packages,) = python.parent.parent.glob("lib/python*/site-packages")
    (found,) = importlib.metadata.distributions(name=distribution, path=[str(site_packages)])
    return found


def test_wheel_and_sdk_have_no_file_in_common(shared: Path) -> None:
    mine = {str(path) for path in installed(shared, "darkroom-images").files or []}
    theirs = {str(path) for path in installed(shared, "yandexcloud").files or []}
    assert "darkroom_pb/yandex/cloud/compute/v1/image_pb2.py" in mine
    assert "darkroom_pb/descriptors.binpb" in mine
    assert "yandex/cloud/compute/v1/image_pb2.py" in theirs
    assert not mine & theirs
    top_levels = {path.split("/")[0] for path in mine}
    assert {name for name in top_levels if name.isidentifier()} == {"darkroom", "darkroom_pb"}


@pytest.mark.parametrize("distribution", ["darkroom-images", "yandexcloud"])
def test_every_file_is_as_it_was_packed(shared: Path, distribution: str) -> None:
    checked = 0
    for path in installed(shared, distribution).files or []:
        if path.hash is not None and not str(path).startswith("../"):
            digest = hashlib.new(path.hash.mode, path.read_binary()).digest()
            assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == path.hash.value, path
            checked += 1
    assert checked > 30


def test_requirements_agree(shared: Path) -> None:
    assert pip(shared, "check") == "No broken requirements found.\n"


@pytest.mark.parametrize(
    "modules",
    [
        [
            "darkroom_pb.yandex.cloud.compute.v1.image_service_pb2",
            "darkroom_pb.yandex.cloud.compute.v1.image_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.compute.v1.disk_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.compute.v1.disk_type_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.compute.v1.snapshot_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.compute.v1.zone_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.endpoint.api_endpoint_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.iam.v1.iam_token_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.resourcemanager.v1.cloud_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.resourcemanager.v1.folder_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.operation.operation_service_pb2_grpc",
            "darkroom_pb.yandex.cloud.quota.quota_pb2",
            "darkroom.cli.main",
        ],
        [
            "yandex.cloud.compute.v1.image_service_pb2",
            "yandex.cloud.compute.v1.image_service_pb2_grpc",
            "yandex.cloud.compute.v1.disk_service_pb2_grpc",
            "yandexcloud",
        ],
    ],
    ids=["ours", "official"],
)
def test_both_work_there(shared: Path, tmp_path: Path, modules: list[str]) -> None:
    """Each in a process of its own, with nothing of the working tree in reach."""
    script = (
        f"import {', '.join(modules)}\n"
        f"module = {modules[0]}\n"
        "request = module.CreateImageRequest(folder_id='folder', uri='https://host/object')\n"
        "print(module.__file__, request.SerializeToString(deterministic=True).hex())\n"
    )
    finished = subprocess.run(
        [shared, "-I", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    file, encoded = finished.stdout.split()
    inside = Path(file).relative_to(shared.parent.parent)
    assert inside.parts[3] == modules[0].split(".")[0]
    assert bytes.fromhex(encoded) == b"\x0a\x06folder\x5a\x13https://host/object"
