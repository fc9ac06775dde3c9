"""Delete an image: rows only, so it is finished when the RPC answers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from darkroom.domain import errors
from darkroom.domain.image import Image
from darkroom.domain.operation import IMAGE_DELETE
from darkroom.operations.desk import Begun, Opening
from darkroom.storage.port import Transaction


@dataclass(frozen=True)
class DeleteImage:
    """Delete one image; its content goes when nothing else refers to it."""

    kind: ClassVar[str] = IMAGE_DELETE

    image_id: str

    def identity(self) -> dict[str, Any]:
        return {"image_id": self.image_id}

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        image = tx.resource(Image, self.image_id)
        if image is None:
            raise errors.resource_not_found("Image", self.image_id)
        conflicting = tx.unfinished_operation_on(self.image_id)
        if conflicting is not None:
            raise errors.conflicting_operation(conflicting)
        tx.delete_resource(self.image_id)
        return Begun(opening.operation(self.kind, image.folder_id, image.id, response={}))
