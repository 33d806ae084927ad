-- Write an entry if its key is absent; otherwise count the arrival.
-- KEYS: entry, deadlines of its shard. ARGV: version, body, deadline, milliseconds to live.
-- Returns: inserted (0 or 1), now in microseconds, the value that is there.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('GET', KEYS[1])
if found then
  local version, arrivals, rest = string.match(found, '^1 (%d+) (%d+) (%d+ %-?%d+ {.*})$')
  if version then
    found = string.format('1 %s %.0f %s', version, arrivals + 1, rest)
    redis.call('SET', KEYS[1], found, 'KEEPTTL')
  end
  return {0, now, found}
end
local function at(seconds)
  return string.format('%.0f', now + seconds * 1000000)
end
local body = string.gsub(ARGV[2], '\1([-%d.]+)\1', at)
local value = string.format('1 %s 1 %.0f 0 %s', ARGV[1], now, body)
if ARGV[3] ~= '' then -- first: what fails here leaves nothing behind
  redis.call('ZADD', KEYS[2], string.gsub(ARGV[3], '\1([-%d.]+)\1', at), KEYS[1])
end
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[1], value, 'PX', ARGV[4])
else
  redis.call('SET', KEYS[1], value)
end
return {1, now, value}
