"""The simulation finds what it always found: how fast it is must not matter to a single figure."""

from __future__ import annotations

import pytest

from scaler.simulate import SimulationOptions
from tests.scaler.figures import cases, found, kept


@pytest.mark.parametrize(("name", "options"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_c18_every_printed_figure_is_as_it_was(name: str, options: SimulationOptions) -> None:
    assert found(options) == kept()[name]


def test_every_kept_case_is_tried() -> None:
    assert list(kept()) == [name for name, _ in cases()]
