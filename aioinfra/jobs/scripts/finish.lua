-- Record how claims ended: results, retries, releases, dead letters.
--
-- KEYS  1      the worker's receipt: the nonce and statuses of its last finish
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      nonce of this batch
--       3      how many dead letters a queue keeps
--       4      how long a dead letter is kept, seconds
--       5..    nine a claim: queue, id, token, action, result, time to live of the result (ms; 0 none, -1 for
--              ever; for a retry the number of tries made), number (see the actions), reply channel or '',
--              error record
-- Reply one letter a claim: k recorded, f fenced (the claim is no longer the current one: nothing was changed)
--
-- Actions
--   d  done: the result is stored, the job is gone; number = ms for which the lease key is kept (0: not)
--   r  retry: due again in number ms; the try is counted
--   l  release: back to the score number (the one before the claim); no try is counted
--   x  dead: as d, and payload and error record move to the dead letters
--
-- Invariants
-- * Only the current claim may finish: aioinfra:claim:<id> holds its token, and nobody else (a plain arq worker,
--   after a lapsed lease) holds arq:in-progress:<id>.
-- * A repeat of the same batch after a lost reply answers what the first one did and changes nothing. One
--   receipt a worker is enough, because a worker has one finish in flight.
-- Cost  O(log N) a claim.
local saved = redis.call('GET', KEYS[1])
local nonce = ARGV[2]
if saved and string.sub(saved, 1, #nonce + 1) == nonce .. ':' then
  return string.sub(saved, #nonce + 2)
end
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local now_text = string.format('%.0f', now)
local aborts = redis.call('EXISTS', 'arq:abort') == 1

local function bury(queue, id, payload, record)
  local letter, index = 'aioinfra:dead-letter:' .. queue .. ':' .. id, 'aioinfra:dead:' .. queue
  redis.call('HSET', letter, 'payload', payload or '', 'record', record, 'at', now_text)
  redis.call('EXPIRE', letter, ARGV[4])
  redis.call('ZADD', index, now_text, id)
  local over = redis.call('ZCARD', index) - tonumber(ARGV[3])
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', index, 0, over - 1)) do
      redis.call('DEL', 'aioinfra:dead-letter:' .. queue .. ':' .. old)
    end
    redis.call('ZREMRANGEBYRANK', index, 0, over - 1)
  end
end

-- Deletions are collected and made in few calls at the end: a call costs more than what it does.
local gone, members, statuses = {}, {}, {}

local function forget(queue, id)
  local list = members[queue]
  if not list then
    list = {}
    members[queue] = list
  end
  list[#list + 1] = id
end


for at = 5, #ARGV, 9 do
  local queue, id, token, action = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local number = tonumber(ARGV[at + 6])
  local claim, held, job = 'aioinfra:claim:' .. id, 'arq:in-progress:' .. id, 'arq:job:' .. id
  local now_held = redis.call('MGET', claim, held)
  local mine = now_held[1] and string.sub(now_held[1], 1, #token + 1) == token .. '|'
  if not mine or (now_held[2] and now_held[2] ~= token) then
    statuses[#statuses + 1] = 'f'
  else
    statuses[#statuses + 1] = 'k'
    gone[#gone + 1] = claim
    if action == 'r' or action == 'l' then
      local due = action == 'r' and now + number or number
      redis.call('ZADD', queue, 'XX', string.format('%.0f', due), id)
      gone[#gone + 1] = held
      if action == 'r' then
        redis.call('SET', 'arq:retry:' .. id, ARGV[at + 5], 'EX', 88400)
      end
    else
      if action == 'x' then
        bury(queue, id, redis.call('GET', job), ARGV[at + 8])
      end
      local lives = tonumber(ARGV[at + 5])
      if lives > 0 then
        redis.call('SET', 'arq:result:' .. id, ARGV[at + 4], 'PX', ARGV[at + 5])
      elseif lives < 0 then
        redis.call('SET', 'arq:result:' .. id, ARGV[at + 4])
      end
      if action == 'd' and number > 0 then
        redis.call('PEXPIRE', held, ARGV[at + 6])
      else
        gone[#gone + 1] = held
      end
      gone[#gone + 1] = job
      gone[#gone + 1] = 'arq:retry:' .. id
      forget(queue, id)
      if aborts then
        redis.call('ZREM', 'arq:abort', id)
      end
    end
    if ARGV[at + 7] ~= '' and action ~= 'r' and action ~= 'l' then
      redis.call('PUBLISH', ARGV[at + 7], id)
    end
  end
end
for at = 1, #gone, 1000 do
  redis.call('DEL', unpack(gone, at, math.min(at + 999, #gone)))
end
for queue, list in pairs(members) do
  redis.call('ZREM', queue, unpack(list))
end
local reply = table.concat(statuses)
redis.call('SET', KEYS[1], nonce .. ':' .. reply, 'EX', 86400)
return reply
