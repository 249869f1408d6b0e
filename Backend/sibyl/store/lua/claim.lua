-- claim(keys of the task | id, nonce, lease_ms, most_tries, floor, model)
-- Takes the task: raises its epoch and writes the first entry of the new epoch, after which Redis itself refuses every
-- older writer. Again with the same nonce: the same lease (the reply was lost).
--
-- floor: the highest epoch that this worker ever saw, in case Redis lost its newest writes.
-- A task that was cancelled, is past its deadline or used up its tries ends here instead.
--
-- Reply: {'ok', epoch, offset, attempt, ms until the deadline, spec} | {'ended', state} | {'busy', state} | {'gone'}
local keys = whole()
local id, nonce, lease_ms, most_tries, floor, model = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local task = redis.call('HMGET', keys.task, 'state', 'epoch', 'offset', 'tries', 'lease_ms', 'score', 'cancel', 'nonce',
  'attempt', 'deadline_ms', 'spec', 'claimed_offset')
local state, now = task[1], now_ms()
-- A try that stored something was no failure: only tries in a row without any progress count, so a task that shares a
-- worker with one that kills it is not taken for the killer.
local tries = task[12] and tonumber(task[3]) > tonumber(task[12]) and 0 or tonumber(task[4] or '0')

if not state or next(MAY[state]) == nil then
  redis.call('ZREM', keys.waiting, id)
  redis.call('ZREM', keys.running, id)
  redis.call('ZREM', keys.deadlines, id)
  return { 'gone' }
end
if state == 'running' and task[8] == nonce then
  return { 'ok', task[2], task[3], task[9], int(tonumber(task[10]) - now), task[11] }
end
if not (state == 'queued' or state == 'running' and tonumber(task[5]) < now) then
  return { 'busy', state }
end
if task[7] then
  return { 'ended', finish_unheld(keys, id, 'cancelled', floor) }
end
if tonumber(task[10]) <= now then
  return { 'ended', finish_unheld(keys, id, 'expired', floor) }
end
if tries >= most_tries then
  redis.call('ZADD', keys.dead, int(now), id)
  redis.call('ZREMRANGEBYRANK', keys.dead, 0, -DEAD_LENGTH - 1)
  return { 'ended', finish_unheld(keys, id, 'failed', floor, { FIELD.CODE, 'worker_lost', FIELD.MESSAGE,
    'Every worker that tried this task was lost, ' .. int(tries) .. ' in all.' }) }
end

local last = last_entry(keys.log)
local epoch = next_epoch(task[2], floor, last)
local attempt = int(tonumber(task[9]) + 1)
redis.call('XADD', keys.log, int(epoch) .. '-' .. task[3], FIELD.KIND, 'started', FIELD.ATTEMPT, attempt, FIELD.MODEL, model,
  FIELD.KEPT, task[3], FIELD.PREVIOUS, last)
-- The offset as it was, and first into the one list, then out of the other: a Redis that came back with half of an older
-- script has then neither more outputs than its log, nor a task that no list names.
redis.call('HSET', keys.task, 'state', 'running', 'epoch', int(epoch), 'nonce', nonce, 'offset', task[3], 'attempt', attempt,
  'tries', int(tries + 1), 'claimed_offset', task[3], 'model', model, 'lease_ms', int(now + tonumber(lease_ms)))
redis.call('HSETNX', keys.task, 'started_ms', int(now))
redis.call('HDEL', keys.task, 'progress')
redis.call('ZADD', keys.running, int(now + tonumber(lease_ms)), id)
redis.call('ZREM', keys.waiting, id)
local start = tonumber(task[6]) % BAND
if start > virtual_time(keys.clock) then
  redis.call('SET', keys.clock, int(start))
  redis.call('ZREMRANGEBYSCORE', keys.ahead, '-inf', int(start)) -- who is not ahead of the clock need not be known
end
return { 'ok', int(epoch), task[3], attempt, int(tonumber(task[10]) - now), task[11] }
