-- Store jobs and put them on their queues: all of a job, or nothing of it.
--
-- KEYS  1..q   the distinct queues (sorted sets: job id -> due time in ms)
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      1 when this call repeats one whose reply was lost, else 0
--       3..    runs of jobs that have all but id and payload in common, six arguments and then the jobs:
--              how many, queue (index into KEYS), 1 when the caller chose the ids, due ('' for now, else ms),
--              offset (ms, added to due), time to live of the payload after it is due (ms);
--              a job: id, payload; where the ids were chosen: id, payload, nonce
-- Reply a text of one digit a job
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
-- Cost  O(log N) a job in the queue's size. What jobs have in common is read once a run: a third of the time.
local call = redis.call
local now = tonumber(ARGV[1])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local repeated = ARGV[2] == '1'
local usable, members, reply = {}, {}, {}
for queue = 1, #KEYS do
  local kind = call('TYPE', KEYS[queue]).ok
  usable[queue], members[queue] = kind == 'zset' or kind == 'none', {}
end

-- The reply of an id that is taken, or nil.
local function taken(id, chosen, nonce)
  local found = call('MGET', 'arq:job:' .. id, 'arq:result:' .. id)
  if not (found[1] or found[2]) then
    return nil
  elseif not repeated then
    return '0'
  elseif not chosen or string.find(found[1] or found[2], nonce, 1, true) then
    return '2'
  end
  return found[1] and '0' or '4'
end

-- Store the run at an index; answers where the next one begins.
local function store(at)
  local count, queue, chosen = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2] == '1'
  local due = (ARGV[at + 3] == '' and now or tonumber(ARGV[at + 3])) + tonumber(ARGV[at + 4])
  local lives = string.format('%.0f', math.max(1, math.max(due - now, 0) + tonumber(ARGV[at + 5])))
  due = string.format('%.0f', due)
  local width, looks, answers = chosen and 3 or 2, chosen or repeated, #reply
  local list = members[queue]
  local top, first = #list, at + 6
  for job = 1, count do
    local one = first + (job - 1) * width
    local id = ARGV[one]
    local answer = not usable[queue] and '3' or looks and taken(id, chosen, ARGV[one + 2])
    if not answer then
      answer = '0'
      if call('SET', 'arq:job:' .. id, ARGV[one + 1], 'PX', lives, 'NX') then
        list[top + 1], list[top + 2] = due, id
        top, answer = top + 2, '1'
      end
    end
    reply[answers + job] = answer
  end
  return first + count * width
end

local at = 3
while at <= #ARGV do
  at = store(at)
end
-- One call a queue instead of one a job: a call costs more than what it does. 2,000 stays below Lua's stack.
for queue, list in ipairs(members) do
  for first = 1, #list, 2000 do
    call('ZADD', KEYS[queue], unpack(list, first, math.min(first + 1999, #list)))
  end
end
return table.concat(reply)
