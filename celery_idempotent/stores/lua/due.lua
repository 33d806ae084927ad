-- Return the entries of one shard whose deadline has passed, each with its deadline, oldest first.
-- KEYS: deadlines of the shard. ARGV: how many at most.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
