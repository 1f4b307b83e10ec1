-- What stands before every script that reads a value: envelope layout 2 (aioinfra/codec/layout.py), in Lua.
--
-- ARGV of all these scripts begin with
--       1      now in ms, or 0 for the server's clock
--       2      current generation of the namespace, 8 bytes, as the caller knows it
--       3      identity of a value that the caller has judged: its generation, and its extension area if tagged
--       4      1 when that value is current, 0 when it is not
-- Reply of all these scripts, instead of their own: an array of the header and extension area of the value under the
--              key, when it is neither of the current generation and untagged, nor the judged one. Nothing was
--              changed then: the caller judges it, and asks again.
--
-- Invariants
-- * Not there: wrong magic or version, unknown flags, truncated, beyond its logical expiry, judged not current.
-- * A caller that knows an old generation never replaces a value of a newer one unseen.
-- Cost  O(1), but for the extension area of a tagged value.
local KEY = KEYS[1]

local function seconds_now()
  if ARGV[1] ~= '0' then
    return tonumber(ARGV[1]) / 1000
  end
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

-- The header of the value that is there, or nil; then, as the second, what the caller needs to judge one in doubt.
local function live(now)
  local head = redis.call('GETRANGE', KEY, 0, 39)
  if #head < 40 or string.sub(head, 1, 2) ~= '\193\2' then
    return nil
  end
  local codec, compression, flags, extension = struct.unpack('<BBHH', head, 3)
  local expires = struct.unpack('<d', head, 25)
  local length = struct.unpack('<I4', head, 37)
  if flags > 7 or (expires ~= 0 and expires <= now) then
    return nil
  end
  if redis.call('STRLEN', KEY) ~= 40 + extension + length then
    return nil
  end
  local identity, tags = string.sub(head, 9, 16), ''
  if flags >= 4 and extension > 0 then
    tags = redis.call('GETRANGE', KEY, 40, 39 + extension)
    identity = identity .. tags
  end
  if identity ~= ARGV[2] then
    if identity ~= ARGV[3] then
      return nil, head .. tags
    end
    if ARGV[4] ~= '1' then
      return nil
    end
  end
  return {
    head = head, codec = codec, compression = compression, flags = flags, extension = extension,
    expires = expires, length = length,
  }
end

