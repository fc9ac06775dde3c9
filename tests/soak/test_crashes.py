"""The crash campaigns of tests/durability at length: `make soak CRASHES=1000`."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from campaign import places
from campaign.campaign import Figures
from campaign.trial import try_it
from content_storage import Storage

CRASHES = int(os.environ.get("CRASHES") or 1000)
_ENOUGH = 500
"""Kills among which every failpoint comes to its turn."""

pytestmark = pytest.mark.timeout(60 + 10 * CRASHES)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints at once, for whoever waits, and into the report of a failure."""

    def show(line: str) -> None:
        print(line)
        with capsys.disabled():
            print(f"\n{line}", flush=True)

    return show


def assert_all_points_hit(figures: Figures, points: frozenset[str]) -> None:
    if CRASHES >= _ENOUGH:
        assert points - set(figures.points) == set()


def test_embedded(tmp_path: Path, tell: Callable[[str], None]) -> None:
    with places.sources(tmp_path / "objects") as source:
        place = places.embedded(tmp_path, source)
        figures = try_it(place, source, places.EMBEDDED_POINTS, CRASHES, tell)
    assert_all_points_hit(figures, places.EMBEDDED_POINTS)


def test_replicated(
    tmp_path: Path, storage: Storage, prefix: str, tell: Callable[[str], None]
) -> None:
    with places.sources(tmp_path / "objects") as source:
        place = places.replicated(tmp_path, source, storage, prefix)
        figures = try_it(place, source, places.REPLICATED_POINTS, CRASHES, tell)
    assert_all_points_hit(figures, places.REPLICATED_POINTS)
