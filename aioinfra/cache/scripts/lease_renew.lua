-- Keeps a lease, or ends it.
--
-- KEYS: 1 the lease
-- ARGV: 1 token, 2 milliseconds to live from now; "0" to end it; 3 "failed" to leave word for as long that it failed
-- Returns: 1, or 0 when the lease is another's, or gone.
-- O(1).
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
elseif ARGV[3] == 'failed' then
  redis.call('SET', KEYS[1], 'failed', 'PX', ARGV[2])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
