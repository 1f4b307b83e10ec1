"""Everything that talks to a server: pools and their deadlines, batching, tracking, the embedded server.

The only part that touches redis-py's internals. Nothing is imported here: take what you need from its module.
"""
