"""Names of contents and of scratch folders."""

import pytest

from darkroom.domain.content import content_id, parse_content_id


def test_a_name_tells_its_attempt() -> None:
    assert parse_content_id(content_id("fd8abc", 12)) == ("fd8abc", 12)


@pytest.mark.parametrize(
    "name", ["", "fd8abc", "fd8abc.", ".1", "fd8abc.-1", "fd8abc.²", "fd8é.1", "lost+found"]
)
def test_whatever_else_lies_in_a_folder_is_none_of_ours(name: str) -> None:
    """The collector leaves it alone, and must not stumble over it either."""
    assert parse_content_id(name) is None
