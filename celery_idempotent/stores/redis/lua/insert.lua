-- Write an entry if its key is absent; otherwise count the arrival.
-- KEYS: entry, deadlines of its shard. ARGV: version, body, deadline in microseconds, milliseconds to live.
-- Returns: inserted (0 or 1), now in microseconds, the value that is there.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('GET', KEYS[1])
if found then
  local version, arrivals, rest = string.match(found, '^2 (%d+) (%d+) (%d+ %-?%d+ {.*})$')
  if version then
    found = string.format('2 %s %.0f %s', version, arrivals + 1, rest)
    redis.call('SET', KEYS[1], found, 'KEEPTTL')
  end
  return {0, now, found}
end
local value = string.format('2 %s 1 %.0f 0 %s', ARGV[1], now, ARGV[2])
if ARGV[3] ~= '' then -- first: what fails here leaves nothing behind
  local base = string.find(ARGV[3], '^[+-]') and now or 0 -- with a sign, it counts from now
  redis.call('ZADD', KEYS[2], string.format('%.0f', base + ARGV[3]), KEYS[1])
end
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[1], value, 'PX', ARGV[4])
else
  redis.call('SET', KEYS[1], value)
end
return {1, now, value}
