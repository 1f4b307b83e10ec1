-- Delete a job that waits, with everything that is kept of it.
--
-- KEYS  1      the queue (sorted set: job id -> due time in ms)
-- ARGV  1      id
-- Reply 0 it is not on this queue, 1 deleted, 2 it runs and was left alone
--
-- Invariants
-- * A job that somebody holds is left alone. The result of an earlier job with the id is kept.
-- * A worker that was cut off for longer than its lease, and runs the job still, cannot record its end: its claim goes.
-- Cost  O(log N).
local queue, id = KEYS[1], ARGV[1]
if not redis.call('ZSCORE', queue, id) then
  return 0
elseif redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then
  return 2
end
redis.call('ZREM', queue, id)
redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, 'aioinfra:claim:' .. id, 'aioinfra:parked:' .. id,
  'aioinfra:progress:' .. id)
redis.pcall('ZREM', 'arq:abort', id)
return 1
