-- Remove an entry that has been unchanged for long enough. Only what is finished has a time to live.
-- KEYS: entry. ARGV: its time to live when it was written, the age it must have; both in milliseconds.
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and ARGV[1] - left >= tonumber(ARGV[2]) then
  return redis.call('DEL', KEYS[1])
end
return 0
