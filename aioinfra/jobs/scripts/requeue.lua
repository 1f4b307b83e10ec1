-- Bring dead letters back to their queue as fresh jobs: all of a job, or nothing of it.
--
-- KEYS  1      the queue (sorted set: job id -> due time in ms)
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      time to live of a payload that comes back, ms
--       3..    ids
-- Reply one number a letter, in their order; fewer when more than BYTES of payloads were copied: ask for the rest again
--       0 there is no such letter              3 the letter has no payload: the job had expired
--       1 the job is on its queue              4 the queue's key is not a sorted set
--       2 another job, or its result, has      5 what lies under the letter's key is no dead letter
--         the id
--
-- Invariants
-- * A job is a dead letter or on its queue, never both and never neither, whenever the caller dies.
-- * What is not brought back stays as it was. An entry of the list whose letter has expired is removed.
-- * The payload comes back byte for byte, headers included; tries, stalls and abort requests are forgotten, and the
--   result of the death is removed, so that whoever waits for the job waits for its new end.
-- * The result of another job is never removed. A result of ours repeats when its job was enqueued ("et", a key that
--   no text can contain unescaped, followed by "s"); that of an unreadable job says 0.
-- * The server is not kept for long: a call ends after BYTES of payloads.
-- * A server that is out of memory refuses the first write, before anything was changed.
-- Cost  O(log N) a letter, and one copy of its payload.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local BYTES, bytes = 4194304, 0
local now_text = string.format('%.0f', now)
local queue = KEYS[1]
local index, letters = 'aioinfra:dead:' .. queue, 'aioinfra:dead-letter:' .. queue .. ':'
local kind = redis.call('TYPE', queue).ok
local usable = kind == 'zset' or kind == 'none'
local requests = redis.pcall('ZCARD', 'arq:abort')
local aborts = type(requests) == 'number' and requests > 0

-- Whether a result is that of the payload's own death.
local function belongs(result, payload)
  local enqueued = string.match(payload, '^.*"et":%s*(%d+)') or '0'
  return string.find(result, '"et":' .. enqueued .. ',"s":', 1, true) ~= nil
end

local function taken(id, payload)
  if redis.call('EXISTS', 'arq:job:' .. id, 'aioinfra:claim:' .. id) > 0 or redis.call('ZSCORE', queue, id) then
    return true
  elseif redis.call('EXISTS', 'arq:result:' .. id) == 0 then
    return false
  end
  local result = redis.pcall('GET', 'arq:result:' .. id)
  return type(result) ~= 'string' or not belongs(result, payload)
end

local function requeue(id)
  local payload = redis.pcall('HGET', letters .. id, 'payload')
  if type(payload) == 'table' then
    return 5
  elseif not payload then
    if redis.call('EXISTS', letters .. id) == 1 then
      return 5
    end
    redis.pcall('ZREM', index, id)
    return 0
  elseif payload == '' then
    return 3
  elseif not usable then
    return 4
  elseif taken(id, payload) then
    return 2
  end
  bytes = bytes + #payload
  redis.call('SET', 'arq:job:' .. id, payload, 'PX', ARGV[2])
  redis.call('ZADD', queue, now_text, id)
  redis.call('DEL', letters .. id, 'arq:retry:' .. id, 'arq:result:' .. id, 'aioinfra:parked:' .. id)
  redis.pcall('ZREM', index, id)
  if aborts then
    redis.call('ZREM', 'arq:abort', id)
  end
  return 1
end

local reply = {}
for at = 3, #ARGV do
  if bytes > BYTES then
    break
  end
  reply[#reply + 1] = requeue(ARGV[at])
end
return reply
