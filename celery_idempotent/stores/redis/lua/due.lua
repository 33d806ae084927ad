-- Return the entries of one shard whose deadline has passed, each with its deadline, oldest first.
-- KEYS: deadlines of the shard. ARGV: how many at most. The entries are in the slot of their deadlines.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for place = 1, #found, 2 do
  if redis.call('EXISTS', found[place]) == 0 then
    redis.call('ZREM', KEYS[1], found[place])
  end
end
return found
