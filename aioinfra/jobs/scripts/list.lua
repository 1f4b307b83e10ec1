-- Read a page of a queue's members in the order in which they are due.
--
-- KEYS  1      the queue (sorted set: job id -> due time in ms)
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      rank to begin at, or -1 for the first member that is not due
--       3      how many members to look at, at the most
--       4      how many to show, at the most
--       5      the state to show: q queued, d deferred, r running, or '' for all
--       6      payloads of more bytes are cut to them
-- Reply {now, rank to go on at or -1 at the end, {seven fields a member}}
--       the fields: id, score, state, tries, claim, size of the payload (-1: none, -2: not a string), payload
--
-- Invariants
-- * Nothing is changed, and no junk in a member's keys keeps the others from being read.
-- * A reply holds BYTES of payloads, or one more.
-- Cost  O(log N + ARGV[3]), and a few reads for each member that is shown.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local BYTES = 4194304
local queue, rank, look, limit, wanted = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local most = tonumber(ARGV[6])
if rank < 0 then
  rank = redis.call('ZCOUNT', queue, '-inf', string.format('%.0f', now))
end

-- A key's text, '' when there is none or it is no text.
local function text(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value or ''
end

local page = redis.call('ZRANGE', queue, rank, rank + look - 1, 'WITHSCORES')
local leases, fields, bytes, shown, seen = {}, {}, 0, 0, 0
local ended = #page < 2 * look
for at = 1, #page, 2 do
  leases[#leases + 1] = 'arq:in-progress:' .. page[at]
end
for n, lease in ipairs(#leases > 0 and redis.call('MGET', unpack(leases)) or {}) do
  local id, score = page[2 * n - 1], page[2 * n]
  if wanted == 'q' and tonumber(score) > now then
    ended, seen = true, #leases -- nothing that follows is due
    break
  elseif shown >= limit or bytes >= BYTES then
    break
  end
  seen = n
  local state = lease and 'r' or (tonumber(score) <= now and 'q' or 'd')
  if wanted == '' or wanted == state then
    local job = 'arq:job:' .. id
    local size, payload = redis.pcall('STRLEN', job), ''
    if type(size) ~= 'number' then
      size = -2
    elseif size > 0 then
      payload = redis.call('GETRANGE', job, 0, most - 1)
    elseif redis.call('EXISTS', job) == 0 then
      size = -1
    end
    bytes, shown = bytes + #payload, shown + 1
    local last = #fields
    fields[last + 1], fields[last + 2], fields[last + 3], fields[last + 4] =
      id, score, state, text('arq:retry:' .. id)
    fields[last + 5], fields[last + 6], fields[last + 7] = text('aioinfra:claim:' .. id), size, payload
  end
end
return {now, ended and seen == #leases and -1 or rank + seen, fields}
