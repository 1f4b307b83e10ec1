-- Record how claims ended: results, retries, releases, dead letters.
--
-- KEYS  1      the worker's receipt: the nonce and letters of its last finish
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      nonce of this batch
--       3      how many dead letters a queue keeps
--       4      how long a dead letter is kept, seconds
--       5..    nine a claim: queue, id, token, action, result, time to live of the result (ms; 0 none, -1 for
--              ever; for a retry the number of tries made), number (see the actions), reply channel or '',
--              error record
-- Reply one letter a claim
--       k recorded
--       u recorded, but the dead letter could not be written
--       p parked: left to other workers for now
--       f fenced: the claim is no longer the current one, or its queue's key is not a sorted set any more, so
--         that it cannot go back; nothing was changed
--
-- Actions
--   d  done: the result is stored, the job is gone; number = ms for which the lease key is kept (0: not)
--   r  retry: due again in number ms; the try is counted, and the payload lives longer by the delay
--   l  release: back to the score number (the one before the claim); no try is counted
--   x  dead: as d, and payload and error record move to the dead letters
--   p  park: due again in a second, no try is counted, until number ms after the first parking; then as x
--
-- Invariants
-- * Only the current claim may finish: aioinfra:claim:<id> holds its token, and nobody else (a plain arq worker,
--   after a lapsed lease) holds arq:in-progress:<id>.
-- * A repeat of the same batch after a lost reply answers what the first one did and changes nothing. One
--   receipt a worker is enough, because a worker has one finish in flight.
-- * No claim fails another one's: the only errors are the server's refusals, before anything was changed.
-- * The result is published after it can be read: one message a channel, ids separated by newlines. When they are
--   few, short results follow behind a newline and a zero byte, one for each id in order, so that nobody needs to
--   ask for them: '<bytes>:' and the result, or '-:' for one that is to be read (or is not kept).
-- * A server that is out of memory still takes finishes, which free more than they use: its check ends with
--   the first write of a script that it allows, so that one is a deletion.
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
local PARKED = 1000
local TRIES_LIVE = 88400
local MOST_TOLD, LONGEST_TOLD = 16, 16384
redis.call('DEL', KEYS[1])
local requests = redis.pcall('ZCARD', 'arq:abort')
local aborts = type(requests) == 'number' and requests > 0

-- Deletions and messages are collected and made in few calls at the end: a call costs more than what it does.
local gone, members, told = {}, {}, {}

local function collect(lists, name, value)
  local list = lists[name]
  if not list then
    list = {}
    lists[name] = list
  end
  list[#list + 1] = value
end

-- Makes room for what only this engine writes: a key of another type there would keep a job from ever ending.
local function of_type(kind, key)
  local found = redis.pcall('TYPE', key)
  if found.ok and found.ok ~= kind and found.ok ~= 'none' then
    redis.pcall('DEL', key)
  end
  return key
end

-- Writes the dead letter; whether it could: the user may have no right to. The job ends in any case.
local function bury(queue, id, record)
  local letter = of_type('hash', 'aioinfra:dead-letter:' .. queue .. ':' .. id)
  local index = of_type('zset', 'aioinfra:dead:' .. queue)
  local payload = redis.pcall('GET', 'arq:job:' .. id)
  payload = type(payload) == 'string' and payload or ''
  local written = redis.pcall('HSET', letter, 'payload', payload, 'record', record, 'at', now_text)
  local listed = redis.pcall('ZADD', index, now_text, id)
  if type(written) ~= 'number' or type(listed) ~= 'number' then
    redis.pcall('DEL', letter) -- half a letter would stay for ever
    redis.pcall('ZREM', index, id)
    return false
  end
  redis.call('EXPIRE', letter, ARGV[4])
  redis.call('EXPIRE', index, ARGV[4])
  local over = redis.call('ZCARD', index) - tonumber(ARGV[3])
  if over > 0 then
    redis.call('ZREMRANGEBYSCORE', index, string.format('(%.0f', now + 86400000), '+inf') -- nobody died tomorrow
    over = redis.call('ZCARD', index) - tonumber(ARGV[3])
  end
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', index, 0, over - 1)) do
      redis.call('DEL', 'aioinfra:dead-letter:' .. queue .. ':' .. old)
    end
    redis.call('ZREMRANGEBYRANK', index, 0, over - 1)
  end
  return true
end

local function put_back(queue, id, due)
  return type(redis.pcall('ZADD', queue, 'XX', string.format('%.0f', due), id)) == 'number'
end

local function retry(queue, id, tries, delay)
  if not put_back(queue, id, now + delay) then
    return 'f'
  end
  redis.call('SET', 'arq:retry:' .. id, tries, 'EX', string.format('%.0f', TRIES_LIVE + math.ceil(delay / 1000)))
  local left = redis.call('PTTL', 'arq:job:' .. id)
  if left > 0 and delay > 0 then
    redis.call('PEXPIRE', 'arq:job:' .. id, string.format('%.0f', left + delay))
  end
  return 'k'
end

-- Whether other workers may still know what to do with the job.
local function still_parked(queue, id, grace)
  local since = redis.pcall('GET', 'aioinfra:parked:' .. id)
  since = type(since) == 'string' and #since <= 15 and tonumber(string.match(since, '^%d+$')) or now
  if since + grace <= now or not put_back(queue, id, now + PARKED) then
    return false
  end
  redis.call('SET', 'aioinfra:parked:' .. id, string.format('%.0f', since), 'EX', TRIES_LIVE)
  return true
end

local function remove(queue, id, at)
  local lives = tonumber(ARGV[at + 5])
  if lives > 0 then
    redis.call('SET', 'arq:result:' .. id, ARGV[at + 4], 'PX', ARGV[at + 5])
  elseif lives < 0 then
    redis.call('SET', 'arq:result:' .. id, ARGV[at + 4])
  end
  gone[#gone + 1] = 'arq:job:' .. id
  gone[#gone + 1] = 'arq:retry:' .. id
  collect(members, queue, id)
  if aborts then
    redis.call('ZREM', 'arq:abort', id)
  end
  if ARGV[at + 7] ~= '' then
    collect(told, ARGV[at + 7], at)
  end
end

-- One claim's end; answers its letter. The claim is the current one.
local function finish(at, claim, lease)
  local queue, id, action = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  local number, letter = tonumber(ARGV[at + 6]), 'k'
  if action == 'r' then
    letter = retry(queue, id, ARGV[at + 5], number)
    if letter == 'f' then
      return letter
    end
  elseif action == 'l' then
    if not put_back(queue, id, number) then
      return 'f'
    end
  elseif action == 'p' and still_parked(queue, id, number) then
    gone[#gone + 1] = lease
    gone[#gone + 1] = claim
    return 'p'
  else
    if action ~= 'd' then
      letter = bury(queue, id, ARGV[at + 8]) and 'k' or 'u'
      gone[#gone + 1] = 'aioinfra:parked:' .. id
    end
    remove(queue, id, at)
  end
  if action == 'd' and number > 0 then
    redis.call('PEXPIRE', lease, ARGV[at + 6])
  else
    gone[#gone + 1] = lease
  end
  gone[#gone + 1] = claim
  return letter
end

-- Whether a claim key's value begins with the token and its '|'; no string is made for it.
local function names(value, token)
  return value and string.byte(value, #token + 1) == 124 and string.find(value, token, 1, true) == 1
end

-- The message about the claims at some indexes.
local function message(list)
  local ids, results, any, plain = {}, {}, false, #list <= MOST_TOLD
  for n, at in ipairs(list) do
    local result = ARGV[at + 4]
    local whole = ARGV[at + 5] ~= '0' and result ~= '' and #result <= LONGEST_TOLD
    ids[n], results[n] = ARGV[at + 1], whole and #result .. ':' .. result or '-:'
    any = any or whole
    plain = plain and not string.find(ids[n], '\n', 1, true) -- an id of somebody's must not pass for results
  end
  return table.concat(ids, '\n') .. (any and plain and '\n\0' .. table.concat(results) or '')
end

local letters = {}
for first = 5, #ARGV, 9 * 500 do
  local last, keys = math.min(first + 9 * 500, #ARGV + 1) - 9, {}
  for at = first, last, 9 do
    keys[#keys + 1] = 'aioinfra:claim:' .. ARGV[at + 1]
    keys[#keys + 1] = 'arq:in-progress:' .. ARGV[at + 1]
  end
  local holders = redis.call('MGET', unpack(keys))
  for at = first, last, 9 do
    local n, token = (at - first) / 9 * 2, ARGV[at + 2]
    local current = names(holders[n + 1], token) and (not holders[n + 2] or holders[n + 2] == token)
    letters[#letters + 1] = current and finish(at, keys[n + 1], keys[n + 2]) or 'f'
  end
end
for at = 1, #gone, 1000 do
  redis.call('DEL', unpack(gone, at, math.min(at + 999, #gone)))
end
for queue, list in pairs(members) do
  for at = 1, #list, 1000 do
    redis.pcall('ZREM', queue, unpack(list, at, math.min(at + 999, #list)))
  end
end
for channel, list in pairs(told) do
  redis.pcall('PUBLISH', channel, message(list)) -- a user may have no right to the channel
end
local reply = table.concat(letters)
redis.call('SET', KEYS[1], nonce .. ':' .. reply, 'EX', 86400)
return reply
