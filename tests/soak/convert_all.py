"""Converts `source` of every folder below one, whatever our own inspection thinks of it.

usage: python tests/soak/convert_all.py FOLDER
"""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from darkroom.domain.errors import Failure
from darkroom.imaging.conversion import ConversionLimits, Converter
from darkroom.imaging.inspection import Format, Inspection, inspect
from darkroom.imaging.sandbox import Sandbox
from imaging.images import MIB
from imaging.watches import ManualWatch

_MAGIC: dict[bytes, Format] = {b"QFI\xfb": "qcow2", b"KDMV": "vmdk"}


def _blind(source: Path) -> Inspection:
    """What an inspection would say that believes everything."""
    with source.open("rb") as file:
        return Inspection(_MAGIC.get(file.read(4), "raw"), 6 * MIB)


def main() -> None:
    converter = Converter(Sandbox.detect(), ConversionLimits(check_seconds=2, cpu_seconds=5))
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        source = folder / "source"
        try:
            inspection = inspect(source)
        except Failure:
            inspection = _blind(source)
        if inspection.format != "raw":  # raw has nothing that could lead anywhere
            with contextlib.suppress(Failure):
                # The step that runs qemu; those before it have seen these files in other tests.
                converter._convert(source, inspection, folder / "out" / "target", ManualWatch())


if __name__ == "__main__":
    main()
