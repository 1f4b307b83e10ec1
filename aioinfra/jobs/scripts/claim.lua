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
--       8       the worker's receipt: the key that remembers the claims of its last call
--       9       1 when this call repeats one whose reply was lost, with the same token prefix, else 0
--       10..    two a queue: its share of the claims, and its limit (never exceeded)
-- Reply {now, next due ms or -1, {size a queue}, {queues that are not sorted sets}, {five fields a claim},
--        {queues that are paused}}
--       the fields: queue index (0: lost since the call that this one repeats), id, score before the claim, payload
--       or nil, and its past: 'attempt stalls flags', or '' for '1 0 0'; flags: 1 aborted + 2 payload too large
--
-- Invariants
-- * arq:in-progress:<id> is the lease (a plain arq worker skips the job while it exists). It is set only where
--   it is absent, so a job that anybody holds is left alone and its score is never moved.
-- * aioinfra:claim:<id> = '<token>|<stalls>' names the one claim whose finish will be accepted. It outlives the
--   lease, so that a worker that was cut off for a while may still record its result if nobody took over, and
--   a claim that finds it knows that the run before it ended without a word: a stall, which costs no try. After
--   the first one a run says when it begins (begin.lua appends '|b'), and only runs that had begun are counted:
--   jobs that merely waited in a worker that died are not taken for its murderers.
-- * A repeat hands out what the call that it repeats had claimed, or claims if that call never arrived.
-- * A reply holds BYTES of payloads, or one: more would not come through within the time of a call. What is left
--   is due at once. A payload over LARGEST is never read.
-- * Time that is handed in also rules the leases of our own claims: they end with the score that a renewal moves.
-- * A claimed member's score becomes the lease's end: it leaves the due window, and is due again by itself if
--   its worker dies.
-- * arq:retry:<id> counts the tries that ended; it is read here and written by a finish that retries.
-- * A member without payload whose result exists is a leftover: removed, never run. Without a result it is
--   handed out without payload, for the worker to bury.
-- * Nothing is claimed from a queue whose name is in the set aioinfra:paused.
-- * What any of these keys holds, no job keeps the others from being claimed.
-- * A server that is out of memory is drained, not stuck: its check ends with the first write of a script that
--   it allows, so that one is a deletion. A claim's own few bytes are given back by its finish.
-- Cost  O(log N + claims) a queue; members held by others cost one read each, bounded by ARGV[5].
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local BYTES, LARGEST = 4194304, 33554432
local virtual = ARGV[1] ~= '0'
local lease, prefix, free, look = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local lease_end = string.format('%.0f', now + tonumber(lease))
local claims, sizes, wrong, next_due, count, aborts = {}, {}, {}, -1, 0, false
local held, looked, exhausted, taken = {}, {}, {}, {}
local bytes, full, receipt, paused = 0, false, {prefix}, {}
if ARGV[7] == '1' then
  local requests = redis.pcall('ZCARD', 'arq:abort')
  aborts = type(requests) == 'number' and requests > 0
end

-- Whether a claim key's value begins with the token and its '|'.
local function names(value, token)
  return value and string.sub(value, 1, #token + 1) == token .. '|'
end

-- Whether a due member's lease has ended by the time that was handed in, which the server does not know.
local function lapsed(id, holder)
  local claimed = virtual and redis.pcall('GET', 'aioinfra:claim:' .. id)
  return type(claimed) == 'string' and names(claimed, holder)
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
    elseif holder and not lapsed(page[2 * n - 1], holder) then
      held[queue] = held[queue] + 1
    else
      found[#found + 1] = page[2 * n - 1]
      found[#found + 1] = page[2 * n]
    end
  end
  return found
end

-- A count that was stored as digits, but for what others may have written there.
local function counted(text)
  return text and #text <= 9 and tonumber(string.match(text, '^%d+$')) or 0
end

-- How many runs ended without a word, from what the last one left.
local function stalls_after(before)
  if not before then
    return 0
  end
  local digits, begun = string.match(before, '|(%d+)(|?b?)$')
  local stalls = counted(digits)
  return (stalls == 0 or begun == '|b') and stalls + 1 or stalls
end

-- A job's past as the reply says it.
local function past(id, tries, stalls, large)
  local aborted = aborts and redis.call('ZREM', 'arq:abort', id) or 0
  if not tries and stalls == 0 and aborted == 0 and not large then
    return ''
  end
  return string.format('%d %d %d', counted(tries) + 1, stalls, aborted + (large and 2 or 0))
end

-- The keys of what was found, three a job, as far as the reply has room for it; and which are too large to read.
local function readable(found)
  local keys, large = {}, {}
  for at = 1, #found, 2 do
    local id, n = found[at], #keys
    local size = redis.pcall('STRLEN', 'arq:job:' .. id)
    size = type(size) == 'number' and size or 0
    if size > LARGEST then
      large[id], size = true, 0
    elseif bytes > 0 and bytes + size > BYTES then
      full = true
      break
    end
    bytes = bytes + size
    keys[n + 1], keys[n + 2], keys[n + 3] = 'arq:job:' .. id, 'arq:retry:' .. id, 'aioinfra:claim:' .. id
    if large[id] then
      keys[n + 1] = keys[n + 2]
    end
  end
  return keys, large
end

local function hand_out(queue, id, score, payload, history)
  local last = #claims
  claims[last + 1], claims[last + 2], claims[last + 3], claims[last + 4], claims[last + 5] =
    queue, id, score, payload, history
end

-- Claims what was found; answers how many. Scores move in one call a page instead of one a job.
local function claim(queue, found)
  local moved, leftovers, keys, large = {}, {}, readable(found)
  local values = #keys > 0 and redis.call('MGET', unpack(keys)) or {}
  for n = 1, #keys, 3 do
    local at = (n - 1) / 3 * 2 + 1
    local id, payload = found[at], values[n]
    if large[id] then
      payload = false
    end
    if not payload and not large[id] and redis.call('EXISTS', 'arq:result:' .. id) == 1 then
      leftovers[#leftovers + 1] = id
    else
      if count == 0 then
        redis.call('DEL', ARGV[8]) -- see the last invariant
      end
      count = count + 1
      local token, stalls = prefix .. '.' .. count, stalls_after(values[n + 2])
      redis.call('SET', keys[n + 2], token .. '|' .. stalls, 'EX', 88400)
      redis.call('SET', 'arq:in-progress:' .. id, token, 'PX', lease)
      local history, last = past(id, values[n + 1], stalls, large[id]), #receipt
      hand_out(queue, id, found[at + 1], payload, history)
      receipt[last + 1], receipt[last + 2], receipt[last + 3], receipt[last + 4] =
        queue, id, found[at + 1], history
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

-- Hands out again what the call that this one repeats had claimed; whether there was one.
local function claimed_before()
  local saved = redis.call('GET', ARGV[8])
  local known = saved and cmsgpack.unpack(saved)
  if not known or known[1] ~= prefix then
    return false
  end
  redis.call('PEXPIRE', ARGV[8], 3600000)
  for at = 2, #known, 4 do
    local queue, id, token = known[at], known[at + 1], prefix .. '.' .. (at + 2) / 4
    local job = (string.match(known[at + 3], '[23]$') and 'arq:retry:' or 'arq:job:') .. id
    local found = redis.call('MGET', 'aioinfra:claim:' .. id, 'arq:in-progress:' .. id, job)
    if names(found[1], token) and (not found[2] or found[2] == token) then
      redis.call('SET', 'arq:in-progress:' .. id, token, 'PX', lease)
      redis.call('ZADD', KEYS[queue], 'XX', lease_end, id)
      hand_out(queue, id, known[at + 2], job == 'arq:job:' .. id and found[3], known[at + 3])
    else
      hand_out(0, '', '0', false, '')
    end
  end
  return true
end

local function take(queue, want)
  local got = 0
  while got < want and not exhausted[queue] and not full do
    got = got + claim(queue, look_at(queue, want - got))
  end
  taken[queue] = taken[queue] + got
  free = free - got
end

if ARGV[9] == '1' and claimed_before() then
  return {now, now, sizes, wrong, claims, paused}
end
local any_paused = redis.pcall('EXISTS', 'aioinfra:paused') == 1 -- a user may have no right to it
for queue = 1, #KEYS do
  held[queue], looked[queue], taken[queue] = 0, 0, 0
  if any_paused and redis.pcall('SISMEMBER', 'aioinfra:paused', KEYS[queue]) == 1 then
    exhausted[queue], paused[#paused + 1] = true, queue
  end
  take(queue, math.min(free, tonumber(ARGV[8 + 2 * queue]), tonumber(ARGV[9 + 2 * queue])))
end
-- What the shares left over goes to whoever still has jobs, most urgent first.
for queue = 1, #KEYS do
  if free > 0 and not exhausted[queue] then
    take(queue, math.min(free, tonumber(ARGV[9 + 2 * queue]) - taken[queue]))
  end
end
if count > 0 then
  redis.call('SET', ARGV[8], cmsgpack.pack(receipt), 'EX', 3600)
end
if full then
  next_due = now
end
if ARGV[6] == '1' then
  for queue = 1, #KEYS do
    local size = redis.pcall('ZCARD', KEYS[queue])
    sizes[queue] = type(size) == 'number' and size or -1
  end
end
return {now, next_due, sizes, wrong, claims, paused}
