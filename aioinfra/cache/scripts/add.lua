-- Store a value unless there is one, or read the one that is there.
--
-- KEYS  1      full key of the value
-- ARGV  1..4   as value.lua
--       5      sealed value to store, in layout 2; '' to read alone
--       6      its ms to live, '' for no expiry
--       7      1 to get the value that is there
--       8      SHA-1 in hex of a value that counts as absent (the caller cannot read it), or ''
-- Reply 1 stored; nil nothing there, and nothing to store; otherwise the value that is there, or 0 if ARGV[7] is not 1
--
-- Invariants
-- * Of all callers exactly one stores.
-- * Generation, created and logical expiry of what is stored are written here, by the clock that ends the key.
-- Cost  O(size of the value); O(1) when one is there and is not asked for.
local now = seconds_now()
local value, doubt = live(now)
if doubt then
  return {doubt}
end
if value and ARGV[8] ~= '' and redis.sha1hex(redis.call('GET', KEY)) == ARGV[8] then
  value = nil
end
if value then
  if ARGV[7] == '1' then
    return redis.call('GET', KEY)
  end
  return 0
end
local sealed = ARGV[5]
if sealed == '' then
  return false
end
local head, rest = string.sub(sealed, 1, 8) .. ARGV[2], string.sub(sealed, 33)
if ARGV[6] == '' then
  redis.call('SET', KEY, head .. struct.pack('<dd', now, 0) .. rest)
else
  local expires = now + tonumber(ARGV[6]) / 1000
  redis.call('SET', KEY, head .. struct.pack('<dd', now, expires) .. rest, 'PX', ARGV[6])
end
return 1
