-- Asks for the right to make a value, for one process of the fleet at a time.
--
-- KEYS: 1 the value, 2 its lease, 3 the number of clears of the namespace
-- ARGV: 1 token of who asks, 2 milliseconds that the lease lives, 3 bytes 8 to 23 (generation and creation) of the
--       value that who asks has seen and does not want ("" for none), 4 "1" to take the lease whoever has it
-- Returns: {"found"}                   the value is another one than was seen: read it
--          {"leads", clears}           the lease is the asker's; hand ``clears`` to lease_store.lua
--          {"failed", milliseconds}    whoever made it last failed, and asks for so much patience
--          {"held", milliseconds}      another has it, for so long unless it is renewed
-- Invariant: a lease that exists has a time to live. Asking again with one's own token leads again: a lost reply
--            costs nothing.
-- O(1).
local force = ARGV[4] == '1'
if not force then
  local seen = redis.pcall('GETRANGE', KEYS[1], 8, 23)
  if type(seen) == 'string' and seen ~= '' and seen ~= ARGV[3] then return { 'found' } end
end
local holder = redis.pcall('GET', KEYS[2])
if type(holder) ~= 'string' or force or holder == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  local clears = redis.pcall('GET', KEYS[3])
  return { 'leads', type(clears) == 'string' and clears or '' }
end
return { holder == 'failed' and 'failed' or 'held', redis.call('PTTL', KEYS[2]) }
