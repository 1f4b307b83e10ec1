-- Claim due jobs over several queues, payloads included.
--
-- KEYS  1..q    the queues (sorted sets: job id -> due time in ms), most urgent first
-- ARGV  1       now in ms, or 0 for the server's clock
--       2       lease in ms
--       3       token prefix, unique to this call: claim n gets the token '<prefix>.<n>'
--       4       how many jobs to claim in all
--       5       how many members to look at a queue, at the most
--       6       1 to report the queues' sizes
--       7       1 to look for abort requests
--       8..     two a queue: its share of the claims, and its limit (never exceeded)
-- Reply {now, next due ms or -1, {size a queue}, {queues that are not sorted sets}, {eight fields a claim}}
--       the fields: queue index, id, score before the claim, attempt, stalls, 1 if aborted, token, payload or nil
--
-- Invariants
-- * arq:in-progress:<id> is the lease (a plain arq worker skips the job while it exists). It is set only where
--   it is absent, so a job that anybody holds is left alone and its score is never moved.
-- * aioinfra:claim:<id> = '<token>|<stalls>' names the one claim whose finish will be accepted. It outlives the
--   lease, so that a worker that was cut off for a while may still record its result if nobody took over, and
--   a claim that finds it knows that the run before it ended without a word: a stall, which costs no try.
-- * A claimed member's score becomes the lease's end: it leaves the due window, and is due again by itself if
--   its worker dies.
-- * arq:retry:<id> counts the tries that ended; it is read here and written by a finish that retries.
-- * A member without payload whose result exists is a leftover: removed, never run. Without a result it is
--   handed out without payload, for the worker to bury.
-- Cost  O(log N + claims) a queue; members held by others cost one read each, bounded by ARGV[5].
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lease, prefix, free, look = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local lease_end = string.format('%.0f', now + tonumber(lease))
local aborts = ARGV[7] == '1' and redis.call('ZCARD', 'arq:abort') > 0
local claims, sizes, wrong, next_due, count = {}, {}, {}, -1, 0
local left_behind, looked, exhausted, taken, moved = {}, {}, {}, {}, {}

local function hand_out(queue, id, score, payload, tries)
  if not payload and redis.call('EXISTS', 'arq:result:' .. id) == 1 then
    redis.call('ZREM', KEYS[queue], id)
    redis.call('DEL', 'arq:in-progress:' .. id)
    return false
  end
  count = count + 1
  local token, stalls = prefix .. '.' .. count, 0
  local before = redis.call('SET', 'aioinfra:claim:' .. id, token .. '|0', 'EX', 88400, 'GET')
  if before then
    stalls = tonumber(string.match(before, '|(%d+)$') or 0) + 1
    redis.call('SET', 'aioinfra:claim:' .. id, token .. '|' .. stalls, 'EX', 88400)
  end
  redis.call('SET', 'arq:in-progress:' .. id, token, 'PX', lease)
  moved[#moved + 1] = lease_end
  moved[#moved + 1] = id
  local attempt = tonumber(tries or 0) + 1
  local aborted = aborts and redis.call('ZREM', 'arq:abort', id) or 0
  local at = #claims
  claims[at + 1], claims[at + 2], claims[at + 3], claims[at + 4] = queue, id, score, attempt
  claims[at + 5], claims[at + 6], claims[at + 7], claims[at + 8] = stalls, aborted, token, payload
  return true
end

-- Scores move a page at a time: one call instead of one a job. The next page is read after it.
local function move(queue)
  for at = 1, #moved, 1000 do
    redis.call('ZADD', KEYS[queue], 'XX', unpack(moved, at, math.min(at + 999, #moved)))
  end
  moved = {}
end

local function take(queue, want)
  local got = 0
  while got < want and not exhausted[queue] do
    -- One more than wanted shows the next due time; past held members the pages grow.
    local size = math.max(want - got + 1, left_behind[queue] > 0 and 128 or 0)
    size = math.min(size, look - looked[queue])
    if size <= 0 then
      exhausted[queue] = true
      break
    end
    local from = left_behind[queue]
    local page = redis.pcall('ZRANGE', KEYS[queue], from, from + size - 1, 'WITHSCORES')
    if page.err then
      wrong[#wrong + 1], exhausted[queue] = queue, true
      break
    end
    if #page < 2 * size then
      exhausted[queue] = true
    end
    for at = 1, #page, 2 do
      local id, score = page[at], tonumber(page[at + 1])
      if score > now then
        if next_due < 0 or score < next_due then
          next_due = score
        end
        exhausted[queue] = true
        break
      end
      if got >= want then
        break
      end
      looked[queue] = looked[queue] + 1
      local job = redis.call('MGET', 'arq:in-progress:' .. id, 'arq:job:' .. id, 'arq:retry:' .. id)
      if job[1] then
        left_behind[queue] = left_behind[queue] + 1
      elseif hand_out(queue, id, page[at + 1], job[2], job[3]) then
        got = got + 1
      end
    end
    move(queue)
  end
  taken[queue] = taken[queue] + got
  free = free - got
end

for queue = 1, #KEYS do
  left_behind[queue], looked[queue], taken[queue] = 0, 0, 0
  take(queue, math.min(free, tonumber(ARGV[6 + 2 * queue]), tonumber(ARGV[7 + 2 * queue])))
end
-- What the shares left over goes to whoever still has jobs, most urgent first.
for queue = 1, #KEYS do
  if free > 0 and not exhausted[queue] then
    take(queue, math.min(free, tonumber(ARGV[7 + 2 * queue]) - taken[queue]))
  end
end
if ARGV[6] == '1' then
  for queue = 1, #KEYS do
    local size = redis.pcall('ZCARD', KEYS[queue])
    sizes[queue] = type(size) == 'number' and size or -1
  end
end
return {now, next_due, sizes, wrong, claims}
