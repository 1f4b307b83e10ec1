"""``python -m aioinfra`` is the ``aioinfra`` command."""

from aioinfra.cli import main

if __name__ == "__main__":
    main()
