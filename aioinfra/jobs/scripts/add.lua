-- Store jobs and put them on their queues: all of a job, or nothing of it.
--
-- KEYS  1..q   the distinct queues (sorted sets: job id -> due time in ms)
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      how many queues
--       3      1 when this call repeats one whose reply was lost, else 0
--       4..    eight a job: queue (index into KEYS), id, 1 when the caller chose the id,
--              due ('' for now, else ms), offset (ms, added to due), time to live of the payload
--              after it is due (ms), nonce, payload
-- Reply one number a job: 1 stored, 2 stored by an earlier attempt of this very call, 0 another job has the id
--
-- Invariants: a job is on its queue if and only if its payload was written in the same call. An id is taken
-- while its payload or its result exists, as in arq. A repeated call never takes its own job for a stranger's:
-- an id that the client drew is nobody else's, and a chosen id's payload and result contain the nonce.
-- Cost  O(log N) a job in the queue's size.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local repeated = ARGV[3] == '1'
local reply = {}
for at = 4, #ARGV, 8 do
  local queue, id, chosen = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2] == '1'
  local due = (ARGV[at + 3] == '' and now or tonumber(ARGV[at + 3])) + tonumber(ARGV[at + 4])
  local lives, nonce, payload = tonumber(ARGV[at + 5]), ARGV[at + 6], ARGV[at + 7]
  local expires = math.max(1, math.max(due - now, 0) + lives)
  local taken = false
  if chosen or repeated then
    taken = redis.call('GET', 'arq:job:' .. id) or redis.call('GET', 'arq:result:' .. id)
  end
  if not taken then
    if redis.call('SET', 'arq:job:' .. id, payload, 'PX', string.format('%.0f', expires), 'NX') then
      redis.call('ZADD', queue, string.format('%.0f', due), id)
      reply[#reply + 1] = 1
    else
      reply[#reply + 1] = 0
    end
  elseif repeated and (not chosen or string.find(taken, nonce, 1, true)) then
    reply[#reply + 1] = 2
  else
    reply[#reply + 1] = 0
  end
end
return reply
