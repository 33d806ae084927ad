-- Replace an entry if its version is still the given one.
-- KEYS: entry, deadlines of its shard. ARGV: version, body, deadline in microseconds, milliseconds to live.
-- Returns: now in microseconds, and what was written, or false where the version differs or the key is absent.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('GET', KEYS[1])
if not found then
  return {now, false}
end
local version, arrivals, created = string.match(found, '^2 (%d+) (%d+) (%d+) %-?%d+ {')
if not version then
  return redis.error_reply('UNREADABLE')
end
if version ~= ARGV[1] then
  return {now, false}
end
local value = string.format('2 %.0f %s %s %.0f %s', version + 1, arrivals, created, now - created, ARGV[2])
if ARGV[3] ~= '' then -- first: what fails here leaves nothing behind
  local base = string.find(ARGV[3], '^[+-]') and now or 0 -- with a sign, it counts from now
  redis.call('ZADD', KEYS[2], string.format('%.0f', base + ARGV[3]), KEYS[1])
else
  redis.call('ZREM', KEYS[2], KEYS[1])
end
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[1], value, 'PX', ARGV[4])
else
  redis.call('SET', KEYS[1], value)
end
return {now, value}
