"""The crash campaign on the embedded default, short: `make soak CRASHES=1000` is the long one."""

from pathlib import Path

import pytest

from campaign import places
from campaign.trial import try_it

KILLS = 30


@pytest.mark.timeout(300)
def test_killed_at_random_nothing_is_lost_and_nothing_happens_twice(tmp_path: Path) -> None:
    with places.sources(tmp_path / "objects") as source:
        place = places.embedded(tmp_path, source)
        try_it(place, source, places.EMBEDDED_POINTS, KILLS)
