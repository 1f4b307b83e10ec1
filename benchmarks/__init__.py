"""Side-by-side benchmarks: `python -m benchmarks`. The method is in README.md beside this file."""
