"""The faults that `make mutate` puts into the code still match it."""

from pathlib import Path

import pytest
from torture.mutate import all_mutations

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", [fault for _, fault in all_mutations()], ids=lambda fault: fault.name)
def test_a_mutation_names_one_place_in_the_code(fault):
    assert (ROOT / fault.file).read_text().count(fault.old) == 1
