-- append(task, log, running | id, epoch, nonce, lease_ms, progress | '', first, text, token_ids, text, token_ids, ...)
-- Appends outputs number first, first + 1, ... of the answer, skips those that are stored, and renews the lease.
-- Without outputs it is the heartbeat. Repeating it changes nothing.
--
-- Reply: {'ok', stored outputs, '1' when cancel was requested} | {'gap', stored outputs}: Redis lost its newest writes,
--        send again from there | {'fenced', state}: the lease is lost
local task, log, running = KEYS[1], KEYS[2], KEYS[3]
local id, epoch, nonce, lease_ms, progress, first = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local held = redis.call('HMGET', task, 'state', 'epoch', 'nonce', 'offset', 'cancel')

if held[1] ~= 'running' or held[2] ~= epoch or held[3] ~= nonce then
  return { 'fenced', held[1] or 'gone' }
end
local offset = tonumber(held[4])
if first > offset + 1 then
  return { 'gap', held[4] }
end
for index = 7, #ARGV, 2 do
  local number = first + (index - 7) / 2
  if number > offset then
    redis.call('XADD', log, epoch .. '-' .. int(number), FIELD.TEXT, ARGV[index], FIELD.TOKEN_IDS, ARGV[index + 1])
    offset = number
  end
end
local lease = int(now_ms() + lease_ms)
if progress ~= '' then
  redis.call('HSET', task, 'offset', int(offset), 'lease_ms', lease, 'progress', progress)
else
  redis.call('HSET', task, 'offset', int(offset), 'lease_ms', lease)
end
redis.call('ZADD', running, lease, id)
return { 'ok', int(offset), held[5] or '' }
