"""Values of a sample that are no plain numbers leave the page whole."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from aioinfra.metrics.escaping import format_value


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "1.0"), (Decimal("1.5"), "1.5"), (None, "NaN"), ("x", "NaN"), (float("-inf"), "-Inf"), (3, "3")],
)
def test_every_value_is_a_number_on_the_page(value: Any, text: str) -> None:
    assert format_value(value) == text
