-- Give a value another time to live, or read what it has left.
--
-- KEYS  1      full key of the value
-- ARGV  1..4   as value.lua
--       5      set or read
--       6      ms to live from now on, '' for no expiry; ignored by read
-- Reply ms left, -1 for no expiry, -2 for no value
--
-- Invariants
-- * The logical expiry in the envelope and the key's own one move together: near-caches trust the former.
-- * A value that is kept beyond its logical expiry (flag bit 1) is kept as long beyond the new one.
-- Cost  O(1): the value itself is neither read nor sent.
local now = seconds_now()
local value, doubt = live(now)
if doubt then
  return {doubt}
end
if not value then
  return -2
end
local left = redis.call('PTTL', KEY)
local logical = -1
if value.expires ~= 0 then
  logical = math.max(0, math.floor((value.expires - now) * 1000 + 0.5))
end
if ARGV[5] == 'read' then
  if left < 0 or (logical >= 0 and logical < left) then
    return logical
  end
  return left
end
if ARGV[6] == '' then
  redis.call('SETRANGE', KEY, 24, struct.pack('<d', 0))
  redis.call('PERSIST', KEY)
  return -1
end
local ttl, beyond = tonumber(ARGV[6]), 0
if value.flags % 4 >= 2 and left >= 0 and logical >= 0 then
  beyond = math.max(0, left - logical)
end
redis.call('SETRANGE', KEY, 24, struct.pack('<d', now + ttl / 1000))
redis.call('PEXPIRE', KEY, string.format('%.0f', ttl + beyond))
return ttl
