"""What SQLite and PostgreSQL say differently in the statements that they share."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from darkroom.storage import rows


@dataclass(frozen=True)
class Dialect:
    """The words of one database."""

    integrity_error: type[Exception]
    """What its driver raises for a broken constraint."""
    moment: str
    """Now, in microseconds, by the database's clock; a constant where no clock is asked."""
    beat: str
    """The mark that a heartbeat leaves: another one each time."""
    label: str
    """The value of a label, its key bound to `?`."""
    lock: str = ""
    """Appended to reads of rows that must not change until the transaction ends.

    Empty where there is one writer at a time anyway.
    """
    share: str = ""
    """The same, but others may hold the row like this at the same time."""
    skip_locked: str = ""
    """Appended to reads of rows of which any will do, so that nobody waits for one."""

    @cached_property
    def insert_operation(self) -> str:
        return rows.INSERT_OPERATION.format(moment=self.moment)

    def claim_guarded(self, keys: int) -> str:
        return _claim_guarded(self.moment, keys)

    @cached_property
    def heartbeat(self) -> str:
        return rows.HEARTBEAT.format(beat=self.beat)

    @cached_property
    def put_back(self) -> str:
        return rows.PUT_BACK.format(moment=self.moment)

    @cached_property
    def take_back(self) -> str:
        return rows.TAKE_BACK.format(moment=self.moment)

    @cached_property
    def purge_operations(self) -> str:
        return rows.PURGE_OPERATIONS.format(skip_locked=self.skip_locked)


@lru_cache
def key_held(keys: int) -> str:
    """The condition on who claims with that many keys; none at all if there are none."""
    return rows.KEY_HELD.format(keys=", ".join("?" * keys)) if keys else "TRUE"


@lru_cache
def _claim_guarded(moment: str, keys: int) -> str:
    return rows.CLAIM_GUARDED.format(moment=moment, key_held=key_held(keys))
