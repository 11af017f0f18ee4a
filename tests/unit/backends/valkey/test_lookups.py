"""How many results are asked for at once."""

from __future__ import annotations

import pytest

from ffcompletion.backends.valkey.lookups import fit

MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([10] * 100, 100, id="small ones"),
        pytest.param([10] * 1_000, 128, id="as many as are asked for at once"),
        pytest.param([0] * 1_000, 1_000, id="what has none takes no room"),
        pytest.param([0] * 500 + [10] * 200 + [0] * 9, 628, id="nor beside what has"),
        pytest.param([MIB] * 5, 4, id="as many as come to four megabytes"),
        pytest.param([MIB, 3 * MIB + 1, 1], 1, id="the next one would be too much"),
        pytest.param([64 * MIB, 1], 1, id="a large one goes alone"),
        pytest.param([1, 64 * MIB], 1, id="and not behind a small one"),
    ],
)
def test_results_fit_by_number_and_by_size(sizes: list[int], count: int) -> None:
    assert fit(sizes) == count
