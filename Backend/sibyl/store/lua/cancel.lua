-- cancel(keys of the task | id)
-- Asks a task to stop. One that nobody holds ends at once; the holder of another hears the bell and settles it.
-- Twice is once; a finished task stays as it is.
--
-- Reply: {'ok', state after it} | {'gone'}
local keys = whole()
local id = ARGV[1]
local task = redis.call('HMGET', keys.task, 'state', 'lease_ms', 'nonce')
local state = task[1]

if not state then
  return { 'gone' }
end
if next(MAY[state]) == nil then
  return { 'ok', state }
end
redis.call('HSET', keys.task, 'cancel', '1')
if state == 'queued' or task[3] == '' or tonumber(task[2]) < now_ms() then
  return { 'ok', finish_unheld(keys, id, 'cancelled', 0) }
end
ring(keys.bell, 'cancel', id)
return { 'ok', state }
