-- Renew leases, and take back those that lapsed while nobody took over.
--
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      lease in ms
--       3      1 to move the queue's scores too (that wakes whoever listens to the queue: at most once per half
--              lease), 0 to touch the keys alone
--       4..    three a claim: queue, id, token
-- Reply the positions (from 1) of the claims that are lost: another worker has them, or they were finished
--
-- Invariants
-- * Only the claim whose token stands in aioinfra:claim:<id> renews, and never over another's lease.
-- * A claim lives as long as its lease is renewed, however long the job runs.
-- * A server that is out of memory still renews: its check ends with the first write that it allows, so that one
--   is a PEXPIRE.
-- Cost  O(log N) a claim.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lease_end = string.format('%.0f', now + tonumber(ARGV[2]))
local lost = {}
for at = 4, #ARGV, 3 do
  local queue, id, token = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local claim, lease = 'aioinfra:claim:' .. id, 'arq:in-progress:' .. id
  local holders = redis.call('MGET', claim, lease)
  local mine = holders[1] and string.sub(holders[1], 1, #token + 1) == token .. '|'
  if not mine or (holders[2] and holders[2] ~= token) then
    lost[#lost + 1] = (at - 1) / 3
  else
    local lapsed = not holders[2]
    redis.call('EXPIRE', claim, 88400)
    if lapsed then
      redis.call('SET', lease, token, 'PX', ARGV[2])
    else
      redis.call('PEXPIRE', lease, ARGV[2])
    end
    if lapsed or ARGV[3] == '1' then
      redis.pcall('ZADD', queue, 'XX', lease_end, id)
    end
  end
end
return lost
