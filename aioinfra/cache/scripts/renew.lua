-- Extend the lease of a lock.
--
-- KEYS  1      the lock
-- ARGV  1      token of its holder
--       2      lease in ms, from now on
-- Reply 1, or 0 when this token does not hold it (any more)
--
-- Invariants
-- * A lease that has lapsed is not brought back, even if nobody has taken the lock since: its holder was told.
-- * The fence stays. The form of the value is that of lock.lua.
-- Cost  O(1)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fence, lease_end, token = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+) (%S+)$')
if token ~= ARGV[1] or tonumber(lease_end) <= now then
  return 0
end
local lease = tonumber(ARGV[2])
local held = string.format('%s %.0f %s', fence, now + lease * 1000, token)
-- A server that is out of memory still renews: its check ends with the first write that it allows.
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lease + 86400000))
redis.call('SET', KEYS[1], held, 'KEEPTTL')
return 1
