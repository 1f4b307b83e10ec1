-- Asks for the right to make a value, for one process of the fleet at a time.
--
-- KEYS: 1 the value, 2 its lease, 3 the number of clears of the namespace
-- ARGV: 1 token of who asks, 2 milliseconds that the lease lives, 3 bytes 8 to 23 (generation and creation) of the
--       value that who asks has seen and does not want ("" for none), 4 "1" to take the lease whoever has it,
--       5 "1" to wait as long as whoever failed last asks for
-- Returns: {"found"}                   the value is another one than was seen: read it
--          {"leads", clears, seen}     the lease is the asker's; hand both to lease_store.lua: the latter is of what
--                                      is there now, as ARGV 3
--          {"failed", milliseconds}    whoever made it last failed, and asks for so much patience
--          {"held", milliseconds}      another has it, for so long unless it is renewed
-- Invariant: a lease that exists has a time to live. Asking again with one's own token leads again: a lost reply
--            costs nothing.
-- O(1).
local force = ARGV[4] == '1'
local there = redis.pcall('GETRANGE', KEYS[1], 8, 23)
if type(there) ~= 'string' then there = '' end
if not force and there ~= '' and there ~= ARGV[3] then return { 'found' } end
local holder = redis.pcall('GET', KEYS[2])
local free = type(holder) ~= 'string' or (holder == 'failed' and ARGV[5] ~= '1')
if free or force or holder == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  local clears = redis.pcall('GET', KEYS[3])
  return { 'leads', type(clears) == 'string' and clears or '', there }
end
return { holder == 'failed' and 'failed' or 'held', redis.call('PTTL', KEYS[2]) }
