"""Page sizes and page tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.domain.errors import Code, Failure
from darkroom.domain.ids import new_id
from darkroom.domain.listing import decode_page_token, encode_page_token, page_size

QUERY = ("ImageService.List", "folder")


@pytest.mark.parametrize(("asked", "answered"), [(0, 100), (1, 1), (1000, 1000), (5000, 1000)])
def test_page_size_has_a_default_and_a_cap(asked: int, answered: int) -> None:
    assert page_size(asked) == answered


def test_a_negative_page_size_is_refused_by_name() -> None:
    with pytest.raises(Failure, match="page_size"):
        page_size(-1)


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.tuples(TEXTS, st.integers(0, 1 << 62), TEXTS))
def test_a_token_gives_its_position_back(position: tuple[str, int, str]) -> None:
    token = encode_page_token(QUERY, position)
    assert decode_page_token(QUERY, token, (str, int, str)) == position


def test_the_longest_position_fits_the_contract() -> None:
    position = ("x" * 63, 9_999_999_999_999_999, "v" * 20)
    token = encode_page_token(QUERY, position)
    assert len(token) <= 100
    assert decode_page_token(QUERY, token, (str, int, str)) == position
    assert len(encode_page_token(QUERY, ("x" * 50,))) <= 100


def test_an_empty_name_keeps_its_place() -> None:
    token = encode_page_token(QUERY, ("", "id"))
    assert decode_page_token(QUERY, token, (str, str)) == ("", "id")


@given(st.text(max_size=100))
def test_a_foreign_token_is_an_invalid_argument(token: str) -> None:
    if not token:
        assert decode_page_token(QUERY, token, (str,)) == ()
        return
    with pytest.raises(Failure) as refused:
        decode_page_token(QUERY, token, (str,))
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_token_of_another_query_is_refused() -> None:
    token = encode_page_token(QUERY, (new_id(),))
    for other in (("ImageService.List", "other"), ("ImageService.Listfolder", ""), ()):
        with pytest.raises(Failure):
            decode_page_token(other, token, (str,))


@pytest.mark.parametrize(
    "position", [("only one",), ("a", 1, "one too many"), ("a", 1 << 63), ("a", "not,a,number")]
)
def test_a_token_that_somebody_made_is_refused(position: tuple[str | int, ...]) -> None:
    with pytest.raises(Failure) as refused:
        decode_page_token(QUERY, encode_page_token(QUERY, position), (str, int))
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_any_single_change_of_a_token_is_noticed() -> None:
    token = encode_page_token(QUERY, ("fd8" + "a" * 17,))
    changes = [
        token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        for place in range(len(token))
    ]
    # The last character may carry unused bits only; a change there can decode to the same bytes.
    for changed in changes[:-1]:
        with pytest.raises(Failure):
            decode_page_token(QUERY, changed, (str,))
