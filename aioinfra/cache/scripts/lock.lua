-- Take a lock for a lease, or learn how long its holder has left.
--
-- KEYS  1      the lock
-- ARGV  1      token of who asks
--       2      lease in ms
-- Reply fence and 0 when it is taken; 0 and the ms that the holder's lease has left when it is held
--
-- The value is "<fence> <end of the lease in us, 0 when free> <token of the last holder>". It outlives the lease by a
-- day, so that the next fence is above the last one even if the server's clock was set back meanwhile.
--
-- Invariants
-- * At most one token holds the lock. The same token may ask again: it gets the same fence and a new lease.
-- * Fences rise strictly from holder to holder. They are the server's time in us, or one more than the last fence:
--   also a lost key (eviction, a failover to a replica that had not got it) does not bring an old fence back.
-- * A value that is not of this form is no lock, and is replaced.
-- Cost  O(1)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fence, lease_end, token = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+) (%S+)$')
fence, lease_end = tonumber(fence or 0), tonumber(lease_end or 0)
if lease_end > now and token ~= ARGV[1] then
  return {0, math.ceil((lease_end - now) / 1000)}
end
if lease_end <= now or token ~= ARGV[1] then
  fence = math.max(fence + 1, now)
end
local lease = tonumber(ARGV[2])
local held = string.format('%.0f %.0f %s', fence, now + lease * 1000, ARGV[1])
redis.call('SET', KEYS[1], held, 'PX', string.format('%.0f', lease + 86400000))
return {fence, 0}
