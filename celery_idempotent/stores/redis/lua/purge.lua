-- Remove an entry that is finished and has been unchanged for long enough.
-- KEYS: entry. ARGV: the age in microseconds that it must have, 1 to look only. Returns how many went or would.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if redis.call('PTTL', KEYS[1]) < 0 then -- only what is finished has an end
  return 0
end
local created, changed = string.match(redis.call('GET', KEYS[1]) or '', '^2 %d+ %d+ (%d+) (%-?%d+) {')
if created and now - created - changed >= tonumber(ARGV[1]) then
  return ARGV[2] == '1' and 1 or redis.call('DEL', KEYS[1])
end
return 0
