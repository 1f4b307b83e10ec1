-- Add to a whole number, exactly.
--
-- KEYS  1      full key of the value
-- ARGV  1..4   as value.lua
--       5      what to add
--       6      what to add it to when there is no value
--       7      ms to live of a value that is created, '' for no expiry
-- Reply the sum
-- Error NOTCOUNTER  the value is not a whole number in JSON or MessagePack, uncompressed; or not of a cache at all
--       RANGE       the number, or the sum, is beyond 2^53, where Lua's numbers are no longer exact
--
-- Invariants
-- * The sum is stored in JSON, uncompressed, so every reader of this layout reads it.
-- * A value that was there keeps its time to live, flags, extension area and generation.
-- * What bears no magic is another program's, a counter of its own perhaps, and is never replaced. What does and
--   cannot be read, or does not count any more, is.
-- * An error changes nothing.
-- Cost  O(1)
local MOST = 9007199254740992

local function no_counter()
  return redis.error_reply('NOTCOUNTER the value is not a whole number')
end

-- The number in a value; nil and the error when it holds none.
local function whole(value)
  local none = no_counter()
  if value.compression ~= 0 or value.flags % 2 == 1 or value.length > 32 then
    return nil, none
  end
  local payload = redis.call('GETRANGE', KEY, 40 + value.extension, -1)
  local number
  if value.codec == 1 and string.find(payload, '^-?%d+$') then
    number = tonumber(payload)
    if string.format('%.0f', number) ~= payload then -- rounded when it was read
      return nil, redis.error_reply('RANGE the number is beyond 2^53')
    end
  elseif value.codec == 2 and payload ~= '' then
    local first = string.byte(payload)
    if first <= 127 or first >= 224 or (first >= 204 and first <= 211) then -- the integers of MessagePack
      local read, found = pcall(cmsgpack.unpack, payload)
      if read and type(found) == 'number' then
        number = found
        if math.abs(number) >= MOST then -- it may have been rounded
          return nil, redis.error_reply('RANGE the number is beyond 2^53')
        end
      end
    end
  end
  if not number then
    return nil, none
  end
  return number
end

local now = seconds_now()
local value, doubt = live(now)
if doubt then
  return {doubt}
end
local by, number = tonumber(ARGV[5]), tonumber(ARGV[6])
if value then
  local failure
  number, failure = whole(value)
  if failure then
    return failure
  end
else
  local first = redis.call('GETRANGE', KEY, 0, 0)
  if first ~= '' and first ~= '\193' then
    return no_counter()
  end
end
if math.abs(number) > MOST or (by > 0 and number > MOST - by) or (by < 0 and number < -MOST - by) then
  return redis.error_reply('RANGE the sum is beyond 2^53')
end
number = number + by
local text = string.format('%.0f', number)
if value then
  local extension = ''
  if value.extension > 0 then
    extension = redis.call('GETRANGE', KEY, 40, 39 + value.extension)
  end
  local head = '\193\2\1\0' .. string.sub(value.head, 5, 16) .. struct.pack('<d', now)
    .. string.sub(value.head, 25, 32) .. struct.pack('<I4I4', 0, #text)
  redis.call('SET', KEY, head .. extension .. text, 'KEEPTTL')
elseif ARGV[7] == '' then
  redis.call('SET', KEY, '\193\2\1\0\0\0\0\0' .. ARGV[2] .. struct.pack('<ddI4I4', now, 0, 0, #text) .. text)
else
  local expires = now + tonumber(ARGV[7]) / 1000
  local head = '\193\2\1\0\0\0\0\0' .. ARGV[2] .. struct.pack('<ddI4I4', now, expires, 0, #text)
  redis.call('SET', KEY, head .. text, 'PX', ARGV[7])
end
return number
