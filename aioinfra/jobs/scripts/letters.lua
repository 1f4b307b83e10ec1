-- Read a page of dead letters, newest first, without their payloads.
--
-- KEYS  1      the queue that they died on
-- ARGV  1      how many
--       2      time of death (ms) of the letter after which the page begins, or '' for the newest
--       3      its id
-- Reply four fields a letter: id, time of death in ms, record, size of the payload in bytes
--       the record is false when the letter has expired, and the size -1 when its key holds something else
--
-- Invariants
-- * Nothing is changed.
-- * Pages that follow one another show every letter that stays; when the one that a page begins after has gone, those
--   of the same millisecond are shown again.
-- Cost  O(log N + ARGV[1]).
local index, letters = 'aioinfra:dead:' .. KEYS[1], 'aioinfra:dead-letter:' .. KEYS[1] .. ':'
local first = 0
if ARGV[2] ~= '' then
  local rank = redis.call('ZREVRANK', index, ARGV[3])
  first = rank and rank + 1 or redis.call('ZCOUNT', index, '(' .. ARGV[2], '+inf')
end
local reply = {}
local page = redis.call('ZREVRANGE', index, first, first + tonumber(ARGV[1]) - 1, 'WITHSCORES')
for at = 1, #page, 2 do
  local id = page[at]
  local record = redis.pcall('HGET', letters .. id, 'record')
  local size = redis.pcall('HSTRLEN', letters .. id, 'payload')
  if type(record) == 'table' or (not record and redis.call('EXISTS', letters .. id) == 1) then
    record, size = '', -1
  end
  local last = #reply
  reply[last + 1], reply[last + 2], reply[last + 3], reply[last + 4] = id, page[at + 1], record, size
end
return reply
