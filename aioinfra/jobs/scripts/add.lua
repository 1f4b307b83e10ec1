-- Store jobs and put them on their queues: all of a job, or nothing of it.
--
-- KEYS  1..q   the distinct queues (sorted sets: job id -> due time in ms)
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      1 when this call repeats one whose reply was lost, else 0
--       3..    eight a job: queue (index into KEYS), id, 1 when the caller chose the id,
--              due ('' for now, else ms), offset (ms, added to due), time to live of the payload
--              after it is due (ms), nonce, payload
-- Reply one number a job
--       0 another job has the id            3 the queue's key is not a sorted set: nothing was stored
--       1 stored                            4 a repeat, and the id's result does not say whose job it was
--       2 stored by an earlier attempt
--
-- Invariants
-- * A job is on its queue if and only if its payload was written in the same call.
-- * An id is taken while its payload or its result exists, as in arq.
-- * A repeat never takes its own job for a stranger's: an id that the client drew is nobody else's, and a chosen
--   id's payload contains the nonce, and so does a result of ours. A plain arq worker's result does not: 4.
-- * No job fails another one's: the only errors are the server's refusals, before anything was written.
-- Cost  O(log N) a job in the queue's size.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local repeated = ARGV[2] == '1'
local usable, members, reply = {}, {}, {}
for queue = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[queue]).ok
  usable[queue], members[queue] = kind == 'zset' or kind == 'none', {}
end

-- The reply number of an id that is taken, or nil.
local function taken(id, chosen, nonce)
  if not (chosen or repeated) then
    return nil
  end
  local found = redis.call('MGET', 'arq:job:' .. id, 'arq:result:' .. id)
  if not (found[1] or found[2]) then
    return nil
  elseif not repeated then
    return 0
  elseif not chosen or string.find(found[1] or found[2], nonce, 1, true) then
    return 2
  end
  return found[1] and 0 or 4
end

local function store(at)
  local queue, id = tonumber(ARGV[at]), ARGV[at + 1]
  if not usable[queue] then
    return 3
  end
  local already = taken(id, ARGV[at + 2] == '1', ARGV[at + 6])
  if already then
    return already
  end
  local due = (ARGV[at + 3] == '' and now or tonumber(ARGV[at + 3])) + tonumber(ARGV[at + 4])
  local lives = math.max(1, math.max(due - now, 0) + tonumber(ARGV[at + 5]))
  if not redis.call('SET', 'arq:job:' .. id, ARGV[at + 7], 'PX', string.format('%.0f', lives), 'NX') then
    return 0
  end
  local list = members[queue]
  list[#list + 1] = string.format('%.0f', due)
  list[#list + 1] = id
  return 1
end

for at = 3, #ARGV, 8 do
  reply[#reply + 1] = store(at)
end
-- One call a queue instead of one a job: a call costs more than what it does. 2,000 stays below Lua's stack.
for queue, list in ipairs(members) do
  for at = 1, #list, 2000 do
    redis.call('ZADD', KEYS[queue], unpack(list, at, math.min(at + 1999, #list)))
  end
end
return reply
