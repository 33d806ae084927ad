-- Return the keys of one slot whose deadline has passed, and its deadline, oldest first.
-- KEYS: deadlines of the slot. ARGV: how many at most.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
