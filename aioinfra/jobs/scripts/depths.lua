-- How full queues are.
--
-- KEYS  1..q   the queues
-- ARGV  1      now in ms, or 0 for the server's clock
--       2      how many members with a future score to look at a queue
-- Reply three numbers a queue: due, deferred, running; -1 three times for a key of another type
--
-- A running job's score is the end of its lease, so it is among the members with a future score, near their
-- head; whether it runs is told by its lease key. Jobs held by plain arq workers keep a due score and count as due.
-- Cost  O(log N + ARGV[2]) a queue.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local now_text = string.format('%.0f', now)
local reply = {}
for queue = 1, #KEYS do
  local size = redis.pcall('ZCARD', KEYS[queue])
  if type(size) ~= 'number' then
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = -1, -1, -1
  else
    local due = redis.call('ZCOUNT', KEYS[queue], '-inf', now_text)
    local running = 0
    if size > due then
      local leases = redis.call('ZRANGE', KEYS[queue], due, due + tonumber(ARGV[2]) - 1)
      for at = 1, #leases do
        leases[at] = 'arq:in-progress:' .. leases[at]
      end
      for _, lease in ipairs(redis.call('MGET', unpack(leases))) do
        running = running + (lease and 1 or 0)
      end
    end
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = due, size - due - running, running
  end
end
return reply
