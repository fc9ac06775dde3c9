"""The grammar of filters and orders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.domain.errors import Code, Failure
from darkroom.domain.query import FILTER_FIELDS, Condition, OrderKey, parse_filter, parse_order


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("", ()),
        ("  ", ()),
        ('name = "x"', (Condition("name", "=", ("x",)),)),
        ("name='x'", (Condition("name", "=", ("x",)),)),
        ('name != "x"', (Condition("name", "!=", ("x",)),)),
        (
            'name IN ("a", \'b\') and status NOT in ("READY")',
            (Condition("name", "IN", ("a", "b")), Condition("status", "NOT IN", (2,))),
        ),
        ('labels.my/key.x@y = "v"', (Condition("labels", "=", ("v",), "my/key.x@y"),)),
        (r'name = "a\"b\\c\n"', (Condition("name", "=", ('a"b\\c\n',)),)),
        (r"name = 'it\'s'", (Condition("name", "=", ("it's",)),)),
        (
            'createdAt >= "1970-01-01T00:00:01+00:00" AND created_at < "1970-01-01T01:00:02+01:00"',
            (
                Condition("created_at", ">=", (1_000_000,)),
                Condition("created_at", "<", (2_000_000,)),
            ),
        ),
        (
            'created_at = "2026-01-31T12:00:00Z"',
            (Condition("created_at", "=", (1769860800000000,)),),
        ),
    ],
)
def test_filters_are_understood(text: str, conditions: tuple[Condition, ...]) -> None:
    assert parse_filter(text) == conditions


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name", 4),
        ("name =", 6),
        ("name = x", 7),
        ('name = "x', 7),
        ('name = "x" name = "y"', 11),
        ('name = "x" AND', 14),
        ('name = "x" OR name = "y"', 11),
        ('size = "x"', 0),
        ('labels. = "x"', 0),
        ('name < "x"', 5),
        ('name IN "x"', 8),
        ('name IN ("x" "y")', 13),
        ("name IN ()", 9),
        ('name NOT "x"', 9),
        ('status = "WHATEVER"', 9),
        ('created_at > "yesterday"', 13),
        ('created_at > "2026-01-31T12:00:00"', 13),
        ("; DROP TABLE resource", 0),
    ],
)
def test_a_bad_filter_is_refused_with_its_place(text: str, place: int) -> None:
    with pytest.raises(Failure) as refused:
        parse_filter(text)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert f"filter: at {place}: " in refused.value.message


def test_only_images_have_a_family() -> None:
    with pytest.raises(Failure, match="unknown field; known are name, status"):
        parse_filter('family = "f"', FILTER_FIELDS)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        parse_filter(text)
    except Failure as failure:
        assert failure.code is Code.INVALID_ARGUMENT  # noqa: PT017, both ends are fine


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
def test_any_value_can_be_quoted(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_filter(f'name = "{quoted}"') == (Condition("name", "=", (value,)),)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", [("id", False)]),
        ("id desc", [("id", True)]),
        ("name", [("name", False), ("id", False)]),
        ("createdAt desc", [("created_at", True), ("id", True)]),
        ("created_at DESC , name asc", [("created_at", True), ("name", False), ("id", False)]),
        ("id, name", [("id", False)]),
        ("name, name desc", [("name", False), ("id", False)]),
    ],
)
def test_orders_are_understood_and_end_with_the_id(
    text: str, order: list[tuple[str, bool]]
) -> None:
    assert parse_order(text) == tuple(OrderKey(*key) for key in order)


@pytest.mark.parametrize("text", ["size", "name up", "name asc desc", ",", "name,", "name;id"])
def test_a_bad_order_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="order_by"):
        parse_order(text)
