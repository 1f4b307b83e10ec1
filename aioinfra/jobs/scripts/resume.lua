-- Let workers claim from a paused queue again, and wake them.
--
-- KEYS  1      the queue
-- Reply 1 when it was paused, else 0
--
-- Invariants
-- * Workers listen to changes of the queue's key: its first member's score is moved and moved back, which nobody can
--   see but them. A queue without members, or of another type, is left alone.
-- Cost  O(log N).
local queue = KEYS[1]
if redis.call('SREM', 'aioinfra:paused', queue) == 0 then
  return 0
end
local first = redis.pcall('ZRANGE', queue, 0, 0, 'WITHSCORES')
if first[1] then
  redis.call('ZADD', queue, 'XX', string.format('%.0f', tonumber(first[2]) + 1), first[1])
  redis.call('ZADD', queue, 'XX', first[2], first[1])
end
return 1
