-- release(keys of the task | id, nonce, delay_ms, unharmed)
-- Gives a task back: another worker may claim it after `delay_ms`. unharmed '1': the attempt was no failure (drain).
-- Whoever knows the nonce may do so: the holder, or the successor of a worker that is known to be dead.
--
-- Repeating it changes nothing.
--
-- Reply: {'ok'} | {'fenced', state}
local keys = whole()
local id, nonce, delay_ms, unharmed = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local held = redis.call('HMGET', keys.task, 'state', 'nonce', 'tries', 'released')

if held[1] ~= 'running' or held[2] ~= nonce then
  return held[4] == nonce and { 'ok' } or { 'fenced', held[1] or 'gone' }
end
local lease = int(now_ms() + delay_ms - 1)
redis.call('HSET', keys.task, 'nonce', '', 'released', nonce, 'lease_ms', lease)
if unharmed == '1' then
  redis.call('HSET', keys.task, 'tries', int(tonumber(held[3]) - 1))
end
redis.call('ZADD', keys.running, lease, id)
ring(keys.bell, 'work', id)
return { 'ok' }
