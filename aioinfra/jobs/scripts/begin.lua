-- Mark a claim as one whose run has begun, so that its worker's death would count as a stall of this job.
--
-- ARGV  1      id
--       2      token
-- Reply 1 marked, 0 when the claim is no longer the current one
--
-- Asked for by jobs that have stalled before; see claim.lua. A repeat changes nothing.
-- Cost  O(1).
local claim = 'aioinfra:claim:' .. ARGV[1]
local value = redis.call('GET', claim)
if not value or string.sub(value, 1, #ARGV[2] + 1) ~= ARGV[2] .. '|' then
  return 0
end
if string.sub(value, -2) ~= '|b' then
  redis.call('SET', claim, value .. '|b', 'EX', 88400)
end
return 1
