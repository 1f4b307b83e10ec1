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
-- Reply {now, next due ms or -1, {size a queue}, {queues that are not sorted sets}, {five fields a claim}}
--       the fields: queue index, id, score before the claim, payload or nil, and its past: 'attempt stalls aborted',
--       or '' for '1 0 0'
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
-- * What any of these keys holds, no job keeps the others from being claimed.
-- * A server that is out of memory is drained, not stuck: its check ends with the first write of a script that
--   it allows, so that one is a deletion. A claim's own few bytes are given back by its finish.
-- Cost  O(log N + claims) a queue; members held by others cost one read each, bounded by ARGV[5].
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lease, prefix, free, look = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local lease_end = string.format('%.0f', now + tonumber(lease))
local claims, sizes, wrong, next_due, count, aborts = {}, {}, {}, -1, 0, false
local held, looked, exhausted, taken = {}, {}, {}, {}
if ARGV[7] == '1' then
  local requests = redis.pcall('ZCARD', 'arq:abort')
  aborts = type(requests) == 'number' and requests > 0
end

-- Ids and scores, in turn, of up to `want` members that are due and that nobody holds.
local function look_at(queue, want)
  -- One more than wanted shows the next due time; past held members the pages grow.
  local size = math.max(want + 1, held[queue] > 0 and 128 or 0)
  size = math.min(size, 1000, look - looked[queue])
  local page = {}
  if size > 0 then
    page = redis.pcall('ZRANGE', KEYS[queue], held[queue], held[queue] + size - 1, 'WITHSCORES')
    if page.err then
      wrong[#wrong + 1], page = queue, {}
    end
  end
  local last, leases, found = #page < 2 * size or size <= 0, {}, {}
  for at = 1, #page, 2 do
    local score = tonumber(page[at + 1])
    if score > now then
      if next_due < 0 or score < next_due then
        next_due = score
      end
      last = true
      break
    end
    leases[#leases + 1] = 'arq:in-progress:' .. page[at]
  end
  looked[queue], exhausted[queue] = looked[queue] + #leases, last
  for n, holder in ipairs(#leases > 0 and redis.call('MGET', unpack(leases)) or {}) do
    if #found == 2 * want then
      exhausted[queue] = false
      break
    elseif holder then
      held[queue] = held[queue] + 1
    else
      found[#found + 1] = page[2 * n - 1]
      found[#found + 1] = page[2 * n]
    end
  end
  return found
end

-- A job's past as the reply says it. Tries are digits, but for what others may have written there.
local function past(id, tries, stalls)
  local aborted = aborts and redis.call('ZREM', 'arq:abort', id) or 0
  if not tries and stalls == 0 and aborted == 0 then
    return ''
  end
  return string.format('%.0f %.0f %d', (tonumber(string.match(tries or '', '^%d+$')) or 0) + 1, stalls, aborted)
end

-- Claims what was found; answers how many. Scores move in one call a page instead of one a job.
local function claim(queue, found)
  local keys, moved, leftovers = {}, {}, {}
  for at = 1, #found, 2 do
    local id, n = found[at], #keys
    keys[n + 1], keys[n + 2], keys[n + 3] = 'arq:job:' .. id, 'arq:retry:' .. id, 'aioinfra:claim:' .. id
  end
  local values = #keys > 0 and redis.call('MGET', unpack(keys)) or {}
  for at = 1, #found, 2 do
    local id, n = found[at], (at - 1) / 2 * 3
    local payload, before = values[n + 1], values[n + 3]
    if not payload and redis.call('EXISTS', 'arq:result:' .. id) == 1 then
      leftovers[#leftovers + 1] = id
    else
      if count == 0 then
        redis.call('DEL', 'arq:in-progress:' .. id) -- absent: see the last invariant
      end
      count = count + 1
      local token = prefix .. '.' .. count
      local stalls = before and tonumber(string.match(before, '|(%d+)$') or 0) + 1 or 0
      redis.call('SET', keys[n + 3], token .. '|' .. stalls, 'EX', 88400)
      redis.call('SET', 'arq:in-progress:' .. id, token, 'PX', lease)
      local last = #claims
      claims[last + 1], claims[last + 2], claims[last + 3] = queue, id, found[at + 1]
      claims[last + 4], claims[last + 5] = payload, past(id, values[n + 2], stalls)
      moved[#moved + 1] = lease_end
      moved[#moved + 1] = id
    end
  end
  if #leftovers > 0 then
    redis.call('ZREM', KEYS[queue], unpack(leftovers))
  end
  if #moved > 0 then
    redis.call('ZADD', KEYS[queue], 'XX', unpack(moved))
  end
  return #moved / 2
end

local function take(queue, want)
  local got = 0
  while got < want and not exhausted[queue] do
    got = got + claim(queue, look_at(queue, want - got))
  end
  taken[queue] = taken[queue] + got
  free = free - got
end

for queue = 1, #KEYS do
  held[queue], looked[queue], taken[queue] = 0, 0, 0
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
