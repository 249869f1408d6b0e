-- due(waiting, running, deadlines | most)
-- What a worker may claim, the abandoned first, and what is past its deadline. Changes nothing.
--
-- Reply: {{ids whose lease ran out}, {ids that wait, next first}, {ids past their deadline}}
local now, most = int(now_ms()), ARGV[1]
return {
  redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. now, 'LIMIT', 0, most),
  redis.call('ZRANGE', KEYS[1], 0, most - 1),
  redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. now, 'LIMIT', 0, most),
}
