"""The cache: values under keys in Redis, Valkey or this process' memory.

A cached read takes one way through these modules:

    decorator     the function's plan: cache, key (keys, canonical), kind of value (kind), tags (tag_template)
    manager       for direct use: checks keys and TTLs (keys, ttl, glob), hands on
    read_through  near: L1, decoded values (entries), vouched for by what is heard (invalidations, wakes)
                  is the key being loaded? join that flight (flight)
      store.get     redis_store: the gets of the moment leave as one MGET
                    fallback: the same Store over two, server and memory, for outages
                    memory_store: the same Store in this process (local)
      found         open the envelope (aioinfra.codec) -> does it count (generation, tags), is it fresh (freshness)?
      not found     loading: lease -> loader, once for all who wait in the fleet -> seal -> store

`store` is the seam: few verbs over bytes; an error is raised and never looks like an absent key. `backend`
builds the stores of a mode; the manager does not know which it has. `figures` counts, `observer` is told.
"""
