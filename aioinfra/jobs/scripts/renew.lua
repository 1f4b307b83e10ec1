-- Renew leases, and take back those that lapsed while nobody took over.
--
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      lease in ms
--       3      1 to move the queue's scores too (that wakes whoever listens to the queue: at most once per half
--              lease), 0 to touch the lease keys alone
--       4..    three a claim: queue, id, token
-- Reply the positions (from 1) of the claims that are lost: another worker has them, or they were finished
--
-- Invariant: only the claim whose token stands in aioinfra:claim:<id> renews, and never over another's lease.
-- Cost  O(log N) a claim.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lease_end = string.format('%.0f', now + tonumber(ARGV[2]))
local lost, position = {}, 0
for at = 4, #ARGV, 3 do
  local queue, id, token = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  position = position + 1
  local claim, held = 'aioinfra:claim:' .. id, 'arq:in-progress:' .. id
  local now_held = redis.call('MGET', claim, held)
  local mine = now_held[1] and string.sub(now_held[1], 1, #token + 1) == token .. '|'
  if not mine or (now_held[2] and now_held[2] ~= token) then
    lost[#lost + 1] = position
  else
    local lapsed = not now_held[2]
    redis.call('SET', held, token, 'PX', ARGV[2])
    if lapsed or ARGV[3] == '1' then
      redis.call('ZADD', queue, 'XX', lease_end, id)
    end
  end
end
return lost
