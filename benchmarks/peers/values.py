"""The values that the cache benchmarks store: records as an API would cache them, of an exact size."""

from __future__ import annotations

import json
from typing import Any


def key_of(index: int) -> str:
    return f"catalogue:item:{index}"


def record(index: int, size: int) -> dict[str, Any]:
    """A record whose compact JSON has ``size`` bytes; at least 200."""
    value: dict[str, Any] = {
        "id": index,
        "sku": f"SKU-{index:08d}",
        "name": f"Item number {index}",
        "price": 19.99,
        "currency": "EUR",
        "in_stock": index % 3 != 0,
        "tags": ["alpha", "beta", "gamma"],
        "rating": {"mean": 4.25, "votes": 100 + index % 900},
        "note": "",
    }
    short = size - len(json.dumps(value, separators=(",", ":")))
    value["note"] = "n" * short
    return value


def records(count: int, size: int) -> dict[str, dict[str, Any]]:
    """``count`` records under their keys."""
    return {key_of(index): record(index, size) for index in range(count)}
