-- due(waiting, running, deadlines | most)
-- What a worker may claim, the abandoned first, and what is past its deadline. Changes nothing.
--
-- Reply: {{ids whose lease ran out}, {id, band, id, band, ... of those that wait, next first; band 0 is the highest
--        priority}, {ids past their deadline}}
local now, most = int(now_ms()), ARGV[1]
local waiting = redis.call('ZRANGE', KEYS[1], 0, most - 1, 'WITHSCORES')
for index = 2, #waiting, 2 do
  waiting[index] = int(math.floor(tonumber(waiting[index]) / BAND))
end
return {
  redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. now, 'LIMIT', 0, most),
  waiting,
  redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. now, 'LIMIT', 0, most),
}
