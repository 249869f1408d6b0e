-- erase(keys of the task, mine | id)
-- Erases prompt, answer and log; a tombstone without content stays. A worker that runs the task hears the bell.
--
-- Reply: {'ok'} | {'gone'}
local keys, mine, id = whole(), KEYS[14], ARGV[1]
local task = redis.call('HMGET', keys.task, 'state', 'owner', 'retention_ms', 'deadline_ms')

if not task[1] then
  return { 'gone' }
end
redis.call('DEL', keys.task, keys.log)
drop_audio(keys, id)
redis.call('ZREM', keys.waiting, id)
redis.call('ZREM', keys.running, id)
redis.call('ZREM', keys.deadlines, id)
redis.call('ZREM', keys.dead, id)
redis.call('ZREM', mine, id)
bury(keys, 'erased', task[3], task[4])
if next(MAY[task[1]]) ~= nil then
  close_one(keys, task[2])
  ring(keys.bell, 'cancel', id)
end
return { 'ok' }
