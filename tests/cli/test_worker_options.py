"""What the worker command makes of its options."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from aioinfra.cli.app import app
from aioinfra.cli.worker import _numbers


def test_names_and_numbers_are_read() -> None:
    assert _numbers("--queues", None, default=1) is None
    assert _numbers("--queues", "email=3, reports", default=1) == {"email": 3, "reports": 1}
    assert _numbers("--limits", "reports=2") == {"reports": 2}


@pytest.mark.parametrize(
    "text", ["", "email=0", "email=-1", "=3", "email=x", "email=\u0663", "a=1,,b=2", "a=" + "9" * 5_000]
)
def test_what_is_no_number_names_the_option(text: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        _numbers("--limits", text)
    assert caught.value.param_hint == "--limits"


def test_limits_without_a_number_are_refused() -> None:
    with pytest.raises(typer.BadParameter):
        _numbers("--limits", "reports")


def test_a_services_options_are_refused_for_arq_settings() -> None:
    ran = CliRunner().invoke(app, ["worker", "benchmarks.peers.arq_stock:FUNCTIONS", "--strict"])
    assert ran.exit_code == 2
    assert "--strict" in ran.output
