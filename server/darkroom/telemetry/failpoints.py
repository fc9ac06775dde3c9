"""Named points at which a test can hold a process still: crash tests aim with them.

A point does nothing unless `DARKROOM_FAILPOINTS` names a directory. Then a file `NAME.arm` in it
makes the next process that reaches point NAME rename it to `NAME.hit` and stand still until
`NAME.go` appears (or until it is killed).
"""

import os
import time
from pathlib import Path

_DIRECTORY = os.environ.get("DARKROOM_FAILPOINTS", "")
_POLL_SECONDS = 0.005


def failpoint(name: str) -> None:
    """Stand still here if a test asks for it."""
    if not _DIRECTORY:
        return
    folder = Path(_DIRECTORY)
    try:
        os.rename(folder / f"{name}.arm", folder / f"{name}.hit")
    except FileNotFoundError:
        return
    while not (folder / f"{name}.go").exists():
        time.sleep(_POLL_SECONDS)
