-- Read an entry with the clock of the same moment.
-- KEYS: entry. Returns: now in microseconds, and the value, or false.
local time = redis.call('TIME')
return {time[1] * 1000000 + time[2], redis.call('GET', KEYS[1])}
