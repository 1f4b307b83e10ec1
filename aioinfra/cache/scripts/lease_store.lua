-- Stores what the holder of a lease has made, unless it is late: the lease was taken or voided (a delete), the
-- namespace was cleared, or another value was written meanwhile. Ends the lease in any case.
--
-- KEYS: 1 the value, 2 its lease, 3 the number of clears of the namespace
-- ARGV: 1 token, 2 clears and 3 bytes 8 to 23 of the value that was there, as lease.lua gave them,
--       4 sealed value, 5 milliseconds to live, "0" for good
-- Returns: 1 stored, 0 late.
-- Invariant: repeated after a lost reply it answers 0 and changes nothing, since the lease is gone.
-- O(size of the value).
if redis.pcall('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local clears = redis.pcall('GET', KEYS[3])
local late = (type(clears) == 'string' and clears or '') ~= ARGV[2]
if not late then
  local seen = redis.pcall('GETRANGE', KEYS[1], 8, 23)
  late = type(seen) == 'string' and seen ~= '' and seen ~= ARGV[3]
end
if not late then
  if ARGV[5] == '0' then
    redis.call('SET', KEYS[1], ARGV[4])
  else
    redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
  end
end
redis.call('DEL', KEYS[2])
return late and 0 or 1
