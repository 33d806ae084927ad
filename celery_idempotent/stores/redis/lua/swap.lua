-- Replace an entry if its version is still the given one.
-- KEYS: entry, deadlines of its shard. ARGV: version, body, deadline, milliseconds to live.
-- Returns: now in microseconds, and what was written, or false where the version differs or the key is absent.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('GET', KEYS[1])
if not found then
  return {now, false}
end
local version, arrivals, created = string.match(found, '^1 (%d+) (%d+) (%d+) %-?%d+ {')
if not version then
  return redis.error_reply('UNREADABLE')
end
if version ~= ARGV[1] then
  return {now, false}
end
local function at(seconds)
  return string.format('%.0f', now + seconds * 1000000)
end
local body = string.gsub(ARGV[2], '\1([-%d.]+)\1', at)
local value = string.format('1 %.0f %s %s %.0f %s', version + 1, arrivals, created, now - created, body)
if ARGV[3] ~= '' then -- first: what fails here leaves nothing behind
  redis.call('ZADD', KEYS[2], string.gsub(ARGV[3], '\1([-%d.]+)\1', at), KEYS[1])
else
  redis.call('ZREM', KEYS[2], KEYS[1])
end
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[1], value, 'PX', ARGV[4])
else
  redis.call('SET', KEYS[1], value)
end
return {now, value}
