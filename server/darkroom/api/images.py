"""yandex.cloud.compute.v1.ImageService."""

from darkroom.api.calls import Call
from darkroom.api.convert import create_image_command, image_to_message
from darkroom.api.masks import Updatable
from darkroom.api.resources import ResourceServicer, Wire
from darkroom.domain import errors
from darkroom.domain.image import Image
from darkroom.domain.query import IMAGE_FILTER_FIELDS
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2

_UPDATABLE = {
    "name": Updatable("name", lambda request: request.name),
    "description": Updatable("description", lambda request: request.description),
    "min_disk_size": Updatable("min_disk_size_bytes", lambda request: request.min_disk_size),
    "labels": Updatable("labels", lambda request: dict(request.labels)),
}


class ImageServicer(ResourceServicer[Image]):
    """What only images have: families, and creation from anything."""

    SERVICE = image_service_pb2.DESCRIPTOR.services_by_name["ImageService"]
    WIRE = Wire(
        Image,
        "image_id",
        image_to_message,
        image_service_pb2.ListImagesResponse,
        "images",
        image_service_pb2.ListImageOperationsResponse,
        _UPDATABLE,
        IMAGE_FILTER_FIELDS,
    )

    def GetLatestByFamily(self, call: Call) -> image_pb2.Image:
        request = call.request
        image = None
        if request.family:  # images without a family are not a family
            image = self._store.latest_by_family(request.folder_id, request.family)
        if image is None:
            raise errors.resource_not_found("Image", request.family)
        call.resource_id = image.id
        return image_to_message(image)

    def Create(self, call: Call) -> operation_pb2.Operation:
        return self._begun(call, create_image_command(call.request))
