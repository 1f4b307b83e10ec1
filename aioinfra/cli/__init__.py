"""The ``aioinfra`` command. Each group of commands has a module of its own, loaded when it is used."""

from __future__ import annotations


def main() -> None:
    """Entry point of the command."""
    from aioinfra.cli.app import app

    app()
