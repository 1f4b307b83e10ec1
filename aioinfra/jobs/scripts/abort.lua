-- Ask for a job to be aborted.
--
-- KEYS  1      the requests: arq:abort (sorted set: job id -> time of the request in ms)
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      id
--       3      its queue where that is known, or ''
-- Reply 0 unknown, 1 asked for a job that waits, 2 asked for one that runs, 3 it has ended
--
-- Invariants
-- * A request is written only for a job that exists: one that nobody takes back would hit the next job of that id.
-- * A job that is due later is due now if its queue is known, so that a worker ends it at once. The score of a job that
--   somebody holds is never moved.
-- * A repeat changes nothing.
-- Cost  O(log N).
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local now_text = string.format('%.0f', now)
local id, queue = ARGV[2], ARGV[3]
local held = redis.call('EXISTS', 'arq:in-progress:' .. id) == 1
-- A payload may expire while its job runs; a lease without a claim may be what is kept after a job's end.
local known = redis.call('EXISTS', 'arq:job:' .. id) == 1
  or (held and redis.call('EXISTS', 'aioinfra:claim:' .. id) == 1)
local score = queue ~= '' and redis.call('ZSCORE', queue, id)
if not (known or score) then
  return redis.call('EXISTS', 'arq:result:' .. id) == 1 and 3 or 0
end
redis.call('ZADD', KEYS[1], now_text, id)
if score and not held and tonumber(score) > now then
  redis.call('ZADD', queue, 'XX', now_text, id)
end
return held and 2 or 1
