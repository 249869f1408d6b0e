-- announce(workers | name, announcement, stale_ms, forget_ms) or announce(workers | '', '', ...) to only look
-- Says that a worker is alive, and returns those who said so within `stale_ms`. Who has been silent for `forget_ms` is
-- forgotten; before that, whoever watches can tell the silent from the retired.
--
-- Reply: {name, seen_ms, announcement, name, ...}
local now, living = now_ms(), {}
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], int(now) .. ' ' .. ARGV[2])
end
local known = redis.call('HGETALL', KEYS[1])
for index = 1, #known, 2 do
  local seen, announcement = known[index + 1]:match('^(%d+) (.*)$')
  local silent_ms = now - tonumber(seen)
  if silent_ms > tonumber(ARGV[4]) then
    redis.call('HDEL', KEYS[1], known[index])
  elseif silent_ms <= tonumber(ARGV[3]) then
    living[#living + 1] = known[index]
    living[#living + 1] = seen
    living[#living + 1] = announcement
  end
end
return living
