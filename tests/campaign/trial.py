"""One campaign as a test: its seed, its figures and its verdict."""

import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager

from campaign.campaign import Campaign, Figures
from campaign.fleet import Fleet
from object_server import ObjectServer


def try_it(
    place: AbstractContextManager[Fleet],
    source: ObjectServer,
    points: frozenset[str],
    kills: int,
    tell: Callable[[str], object] = print,
) -> Figures:
    """Fails the test if anything was violated. `SEED` in the environment repeats the choices."""
    seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(1 << 32))
    tell(f"SEED={seed}")  # before anything can go wrong
    with place as fleet:
        campaign = Campaign(fleet, source, seed, points)
        campaign.run(kills)
        tell(str(campaign.figures))
        violations = campaign.journal.violations
        assert not violations, f"SEED={seed}: {len(violations)} violations: {violations[:5]}"
    return campaign.figures
