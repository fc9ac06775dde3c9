"""Named points at which a test can hold, freeze or kill a process: crash tests aim with them.

A point does nothing unless `DARKROOM_FAILPOINTS` names a directory. Then a file `NAME.arm` in it
makes the next process that reaches point NAME rename it to `NAME.hit`, add its process id, and do
what the file said:

- nothing: the thread that came there stands still until `NAME.go` appears, the others go on;
- `stop`: the whole process stands still until somebody continues it;
- `kill`: the process is killed.

A point in the present tense comes before what it names, one in the past tense after it.
"""

import os
import signal
import time
from pathlib import Path

_DIRECTORY = os.environ.get("DARKROOM_FAILPOINTS", "")
_POLL_SECONDS = 0.005
_SIGNALS = {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}

# Transactions: `begin`, `cancel`, `commit`, `check` and `migrate` are inside of them, everything
# done but the commit; the other kinds are one statement each, which commits itself.
_CALLS = ("operation.begin", "operation.begun", "operation.cancel", "operation.cancelled")
_SUPERVISION = ("operation.release", "operation.released", "schema.migrate", "schema.migrated")
_WORK = (
    *("operation.claim", "operation.claimed", "operation.renew", "operation.renewed"),
    *("import.fetch", "import.inspect", "import.convert", "import.publish", "import.published"),
    *("operation.finish", "operation.commit", "operation.finished"),
    *("operation.return", "operation.returned", "scratch.clean"),
)
_LOCAL_CONTENTS = ("content.copied", "content.link", "content.linked", "content.stored")
_S3_CONTENTS = (
    *("content.create", "content.created", "content.part", "content.complete"),
    "content.completed",
)
_COLLECTION = (
    *("content.check", "content.checked", "content.forget", "content.forgotten"),
    *("content.deleted", "orphan.delete", "orphan.deleted", "scratch.remove", "scratch.removed"),
    *("operation.purge", "operation.purged"),
)
_UPKEEP = ("backup.content", "backup.copied", "restore.file")
POINTS = frozenset(
    (*_CALLS, *_SUPERVISION, *_WORK, *_LOCAL_CONTENTS, *_S3_CONTENTS, *_COLLECTION, *_UPKEEP)
)
"""Every point that there is."""


def failpoint(name: str) -> None:
    """Stand still, freeze or die here if a test asks for it."""
    if not _DIRECTORY:
        return
    if name not in POINTS:
        raise ValueError(f"no such failpoint: {name}")
    hit = Path(_DIRECTORY, f"{name}.hit")
    try:
        os.rename(hit.with_suffix(".arm"), hit)
    except FileNotFoundError:
        return
    wanted = hit.read_text().strip()
    hit.write_text(f"{wanted} {os.getpid()}\n")
    if number := _SIGNALS.get(wanted):
        os.kill(os.getpid(), number)
        return
    while not hit.with_suffix(".go").exists():
        time.sleep(_POLL_SECONDS)
