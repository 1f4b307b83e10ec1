"""aioinfra beside its peers: `aioinfra bench`, or `python -m benchmarks.compare`. The method is in ../README.md."""
