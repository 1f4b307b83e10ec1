-- Free a lock.
--
-- KEYS  1      the lock
-- ARGV  1      token of its holder
-- Reply 1 when this token held it until now, or was the last to hold it and has freed it before; otherwise 0
--
-- Invariants
-- * Only the holder's token frees. It may ask again until somebody else takes the lock.
-- * The fence stays for the next holder. The form of the value is that of lock.lua.
-- Cost  O(1)
local fence, lease_end, token = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+) (%S+)$')
if token ~= ARGV[1] then
  return 0
end
if lease_end ~= '0' then
  redis.call('PEXPIRE', KEYS[1], 86400000)
  redis.call('SET', KEYS[1], fence .. ' 0 ' .. token, 'KEEPTTL')
end
return 1
