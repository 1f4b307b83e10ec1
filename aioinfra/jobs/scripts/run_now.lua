-- Make a job that waits for its time due at once.
--
-- KEYS  1      the queue (sorted set: job id -> due time in ms)
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      id
-- Reply 0 it is not on this queue, 1 it is due, 2 it runs and was left alone
--
-- Invariants
-- * The score of a job that somebody holds is never moved, nor that of one which is due already: it keeps its place.
-- * Tries are left as they are: a retry that is brought forward is the same try.
-- Cost  O(log N).
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local queue, id = KEYS[1], ARGV[2]
local score = redis.call('ZSCORE', queue, id)
if not score then
  return 0
elseif redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then
  return 2
elseif tonumber(score) > now then
  redis.call('ZADD', queue, 'XX', string.format('%.0f', now), id)
end
return 1
