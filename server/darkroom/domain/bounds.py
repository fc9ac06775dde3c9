"""Intervals of whole numbers, as the rules of the .proto files write them."""

import re
from dataclasses import dataclass

_BOUNDS = re.compile(
    r"""
      (?P<sign> <= | >= | < | > ) (?P<bound> -?\d+ )
    | (?P<low> -?\d+ ) - (?P<high> -?\d+ )
    | (?P<exact> -?\d+ )
    """,
    re.VERBOSE,
)


class RuleError(ValueError):
    """An option in a .proto file says something that cannot be enforced."""


@dataclass(frozen=True)
class Bounds:
    """An interval of whole numbers, both ends included; None is no bound."""

    low: int | None
    high: int | None

    @classmethod
    def parse(cls, text: str) -> "Bounds":
        """Read "<=64", ">=1", "1-64" or "64". Raises `RuleError`."""
        found = _BOUNDS.fullmatch(text)
        if found is None:
            raise RuleError(f'"{text}" is not a bound')
        if found["exact"]:
            return cls(int(found["exact"]), int(found["exact"]))
        if found["sign"]:
            bound = int(found["bound"])
            return {
                "<=": cls(None, bound),
                "<": cls(None, bound - 1),
                ">=": cls(bound, None),
                ">": cls(bound + 1, None),
            }[found["sign"]]
        low, high = int(found["low"]), int(found["high"])
        if low > high:
            raise RuleError(f'"{text}" lets nothing through')
        return cls(low, high)

    def __contains__(self, number: float) -> bool:
        return (self.low is None or number >= self.low) and (
            self.high is None or number <= self.high
        )

    def __str__(self) -> str:
        if self.low is None:
            return f"at most {self.high}"
        if self.high is None:
            return f"at least {self.low}"
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"
