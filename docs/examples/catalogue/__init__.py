"""A package catalogue over the Python distributions installed here: the example behind `aioinfra demo`."""
