-- Delete dead letters.
--
-- KEYS  1      the queue that they died on
-- ARGV  1..    ids
-- Reply one number a letter: 1 deleted, 0 there was none
--
-- Invariants
-- * A letter and its entry in the list go together; whatever lies under the letter's key goes.
-- * The job's result, and another job that has the id by now, are left alone. A repeat changes nothing.
-- Cost  O(log N) a letter.
local index, letters = 'aioinfra:dead:' .. KEYS[1], 'aioinfra:dead-letter:' .. KEYS[1] .. ':'
local reply = {}
for at, id in ipairs(ARGV) do
  local listed = redis.pcall('ZREM', index, id)
  reply[at] = math.max(redis.call('DEL', letters .. id), type(listed) == 'number' and listed or 0)
end
return reply
