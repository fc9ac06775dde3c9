"""A content: an immutable qcow2 file that images share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Content:
    """One stored file. `id` is `<operation id>.<fence>` of the attempt that published it."""

    id: str
    virtual_size_bytes: int
    stored_size_bytes: int
    sha256: str
    """Hex digest of the stored file's bytes."""
    source_sha256: str
    """Hex digest of the bytes that were fetched."""
    created_at_us: int


@dataclass(frozen=True)
class ContentTotals:
    """All contents of an installation, counted."""

    count: int
    stored_bytes: int


def content_id(operation_id: str, fence: int) -> str:
    """The name of the content that attempt `fence` of an operation would publish."""
    return f"{operation_id}.{fence}"


def parse_content_id(value: str) -> tuple[str, int] | None:
    """Operation id and fence, or None if the name is not one of ours."""
    operation_id, dot, fence = value.partition(".")
    if not (operation_id.isalnum() and dot and value.isascii() and fence.isdigit()):
        return None
    return operation_id, int(fence)
