-- announce(workers | name, announcement, stale_ms) or announce(workers | '', '', stale_ms) to only look
-- Says that a worker is alive, forgets those that have been silent for `stale_ms`, and returns the living.
--
-- Reply: {name, seen_ms, announcement, name, ...}
local now, living = now_ms(), {}
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], int(now) .. ' ' .. ARGV[2])
end
local known = redis.call('HGETALL', KEYS[1])
for index = 1, #known, 2 do
  local seen, announcement = known[index + 1]:match('^(%d+) (.*)$')
  if tonumber(seen) + tonumber(ARGV[3]) < now then
    redis.call('HDEL', KEYS[1], known[index])
  else
    living[#living + 1] = known[index]
    living[#living + 1] = seen
    living[#living + 1] = announcement
  end
end
return living
