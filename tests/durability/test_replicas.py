"""Two API processes and three workers on one PostgreSQL and one object storage, killed at random.

What is compared afterwards is told in `campaign.verdict`.
"""

from pathlib import Path

import pytest

from campaign import places
from campaign.trial import try_it
from content_storage import Storage

KILLS = 30


@pytest.mark.timeout(300)
def test_replicas_killed_at_random_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, storage: Storage, prefix: str
) -> None:
    with places.sources(tmp_path / "objects") as source:
        place = places.replicated(tmp_path, source, storage, prefix)
        try_it(place, source, places.REPLICATED_POINTS, KILLS)
