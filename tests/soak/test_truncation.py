"""The cuts of tests/imaging/test_truncation.py, at every sector."""

from pathlib import Path

import pytest

from imaging.test_truncation import FORMS, judged, whole


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", FORMS)
def test_cut_at_every_sector(kind: str, tmp_path: Path) -> None:
    raw, image = whole(kind, tmp_path)
    size = image.stat().st_size
    taken = judged(raw, image, range(1, size, 512), tmp_path)
    print(f"{kind}: {size // 512} cuts, taken whole at {taken}")
