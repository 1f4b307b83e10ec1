"""The cache: values under keys in Redis, Valkey or this process' memory.

A cached read takes one way through these modules:

    decorator -> keys -> manager.get_or_load
      store.get(key)             redis_store: the gets of the moment leave as one MGET
                                 fallback: the same Store over two stores, for outages
                                 memory_store: the same Store in this process
      found: envelope.open -> value
      not found: flight.run(key, load)
          the loader, once for all who wait -> envelope.seal -> store.set

`store` is the seam: few verbs over bytes, an error is raised and never looks like an absent key. The manager
does not know which store it has.
"""
