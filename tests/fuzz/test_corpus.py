"""What fuzzing has found before is met in every test run, without a fuzzer."""

import pytest

from fuzz import targets


@pytest.mark.parametrize("name", targets.TARGETS)
def test_corpus_meets_no_defect(name: str) -> None:
    inputs = targets.corpus(name)
    assert inputs, f"nothing is kept for {name}: run `make fuzz`"
    for data in inputs:
        targets.TARGETS[name](data)
