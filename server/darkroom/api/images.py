"""yandex.cloud.compute.v1.ImageService."""

from darkroom.api.calls import Call
from darkroom.api.convert import create_image_command, image_to_message, operation_to_message
from darkroom.domain import errors, listing
from darkroom.domain.image import Image
from darkroom.operations.changing import Delete
from darkroom.operations.desk import Operations
from darkroom.storage.port import MetadataStore
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2

SERVICE = image_service_pb2.DESCRIPTOR.services_by_name["ImageService"]


class ImageServicer:
    """A method per RPC, under its name; what is missing here answers UNIMPLEMENTED."""

    def __init__(self, store: MetadataStore, operations: Operations) -> None:
        self._store = store
        self._operations = operations

    def Get(self, call: Call) -> image_pb2.Image:
        image_id = call.resource_id = call.request.image_id
        image = self._store.get_image(image_id)
        if image is None:
            raise errors.resource_not_found("Image", image_id)
        return image_to_message(image)

    def List(self, call: Call) -> image_service_pb2.ListImagesResponse:
        request = call.request
        unsupported = [
            errors.FieldViolation(name, "is not supported by this version of Darkroom")
            for name in ("filter", "order_by")
            if getattr(request, name)
        ]
        if unsupported:
            raise errors.request_invalid(unsupported)
        query = ("images", request.folder_id, request.filter, request.order_by)
        size = listing.page_size(request.page_size)
        after_id = listing.decode_page_token(query, request.page_token)
        # One more than asked for tells whether there is another page.
        images = self._store.list_images(request.folder_id, after_id, size + 1)
        next_page_token = ""
        if len(images) > size:
            del images[size:]
            next_page_token = listing.encode_page_token(query, images[-1].id)
        return image_service_pb2.ListImagesResponse(
            images=[image_to_message(image) for image in images], next_page_token=next_page_token
        )

    def Create(self, call: Call) -> operation_pb2.Operation:
        operation = self._operations.begin(create_image_command(call.request), call.caller)
        call.operation_id, call.resource_id = operation.id, operation.resource_id
        return operation_to_message(operation)

    def Delete(self, call: Call) -> operation_pb2.Operation:
        image_id = call.resource_id = call.request.image_id
        operation = self._operations.begin(Delete(Image, image_id), call.caller)
        call.operation_id = operation.id
        return operation_to_message(operation)
