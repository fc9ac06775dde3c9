"""What the bill of materials is judged by: versions that are pinned, licences that are known."""

from typing import Any

import pytest

import bill_of_materials as bill


def component(name: str, version: str, **licence: Any) -> dict[str, Any]:
    return {"name": name, "version": version, "licenses": [licence] if licence else []}


GOOD = component("Some_Thing", "1.0", license={"id": "MIT"})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (GOOD, None),
        (component("some-thing", "1.0", expression="Apache-2.0 OR BSD-2-Clause"), None),
        ({**GOOD, "version": "1.1"}, "some-thing 1.1 is not what constraints.txt pins"),
        ({**GOOD, "name": "other"}, "other 1.0 is not what constraints.txt pins"),
        (component("some-thing", "1.0"), "some-thing: licence unknown"),
        (
            component("some-thing", "1.0", license={"name": "License :: OSI Approved :: GPLv3"}),
            "some-thing: licence License :: OSI Approved :: GPLv3",
        ),
        (component("some-thing", "1.0", expression="MIT AND AGPL-3.0-only"), "some-thing: licence"),
    ],
)
def test_a_component_is_judged(given: dict[str, Any], problem: str | None) -> None:
    pins = bill.pinned("# why\nSome.Thing==1.0\n\nlonely==2\n")
    assert pins == {"some-thing": "1.0", "lonely": "2"}
    found = bill.problems([given], pins)
    assert len(found) == (problem is not None)
    assert all(each.startswith(str(problem)) for each in found)


def test_everything_that_is_needed_is_found() -> None:
    """Of its own, of an extra, of a dependency, and of the extra of a dependency."""
    assert {"grpcio", "ruff", "s3transfer", "cryptography"} <= bill.needed()
