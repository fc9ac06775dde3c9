"""yandex.cloud.resourcemanager.v1: the one cloud and the folders that clients look up."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from darkroom.api.calls import Call
from darkroom.domain import errors, listing
from darkroom.domain.places import Folders
from darkroom.domain.query import Condition, parse_filter
from darkroom_pb.yandex.cloud.resourcemanager.v1 import (
    cloud_pb2,
    cloud_service_pb2,
    folder_pb2,
    folder_service_pb2,
)


def _page(call: Call, asked: tuple[str, ...], ids: dict[str, str]) -> tuple[Sequence[str], str]:
    """The ids of a page, by a filter on names, and the token of the next."""
    conditions = parse_filter(call.request.filter)
    if any(condition.field != "name" for condition in conditions):
        raise errors.request_invalid([errors.FieldViolation("filter", "can only be by name")])
    size = listing.page_size(call.request.page_size)
    asked = (*asked, call.request.filter)
    position = listing.decode_page_token(asked, call.request.page_token, (str,))
    rest = [
        each
        for each, name in sorted(ids.items())
        if _matches(name, conditions) and (not position or each > str(position[0]))
    ]
    return listing.page(asked, rest, size, lambda each: (each,))


def _matches(name: str, conditions: Sequence[Condition]) -> bool:
    for condition in conditions:
        negated = condition.operator in ("!=", "NOT IN")
        if (name in condition.values) is negated:
            return False
    return True


class CloudServicer:
    """The one cloud of an installation."""

    SERVICE = cloud_service_pb2.DESCRIPTOR.services_by_name["CloudService"]

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def _cloud(self, cloud_id: str) -> cloud_pb2.Cloud:
        return cloud_pb2.Cloud(id=cloud_id, name="darkroom")

    def Get(self, call: Call) -> Message:
        cloud_id = call.resource_id = call.request.cloud_id
        if cloud_id != self._folders.cloud_id:
            raise errors.resource_not_found("Cloud", cloud_id)
        return self._cloud(cloud_id)

    def List(self, call: Call) -> Message:
        ids, token = _page(call, ("clouds",), {self._folders.cloud_id: "darkroom"})
        clouds = [self._cloud(each) for each in ids]
        return cloud_service_pb2.ListCloudsResponse(clouds=clouds, next_page_token=token)


class FolderServicer:
    """The configured folders are listed; any other id is a folder too, as everywhere here."""

    SERVICE = folder_service_pb2.DESCRIPTOR.services_by_name["FolderService"]

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def _folder(self, folder_id: str) -> folder_pb2.Folder:
        return folder_pb2.Folder(
            id=folder_id,
            cloud_id=self._folders.cloud_id,
            name=self._folders.names.get(folder_id, folder_id),
            status=folder_pb2.Folder.ACTIVE,
        )

    def Get(self, call: Call) -> Message:
        call.resource_id = call.request.folder_id
        return self._folder(call.request.folder_id)

    def List(self, call: Call) -> Message:
        cloud_id = call.resource_id = call.request.cloud_id
        known: dict[str, Any] = {}
        if cloud_id == self._folders.cloud_id:
            known = {
                folder_id: name
                for folder_id, name in self._folders.names.items()
                if call.may("resource-manager.folders.get", folder_id)
            }
        ids, token = _page(call, ("folders", cloud_id), known)
        folders = [self._folder(each) for each in ids]
        return folder_service_pb2.ListFoldersResponse(folders=folders, next_page_token=token)
