-- reap(keys of the task | id)
-- Ends a task that nobody holds and that was cancelled or is past its deadline, when no worker is there to do it.
--
-- Reply: {'ended', state}, also when it had ended | {'busy', state} | {'gone'}
local keys = whole()
local id = ARGV[1]
local task = redis.call('HMGET', keys.task, 'state', 'lease_ms', 'nonce', 'cancel', 'deadline_ms')
local state, now = task[1], now_ms()

if not state or next(MAY[state]) == nil then
  redis.call('ZREM', keys.waiting, id)
  redis.call('ZREM', keys.running, id)
  redis.call('ZREM', keys.deadlines, id)
  return state and { 'ended', state } or { 'gone' }
end
local held = state == 'running' and task[3] ~= '' and tonumber(task[2]) >= now
if not held and task[4] then
  return { 'ended', finish_unheld(keys, id, 'cancelled', 0) }
end
if not held and tonumber(task[5]) <= now then
  return { 'ended', finish_unheld(keys, id, 'expired', 0) }
end
return { 'busy', state }
