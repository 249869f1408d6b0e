-- append(running, task, log, task, log, ... | lease_ms, then of each task: id, epoch, nonce, progress | '', first,
--        how many outputs, text, token_ids, text, token_ids, ...)
-- For each task: appends outputs number first, first + 1, ... of the answer, skips those that are stored, and renews the
-- lease once an eighth of it is over. Without outputs it is the heartbeat. Repeating it changes nothing. A task whose
-- write fails keeps no other from its own; one that is alone gets the error.
--
-- Reply: a line for each task: 'ok <stored outputs>' | 'cancel <stored outputs>': as ok, and cancel was requested
--        | 'gap <stored outputs>': Redis lost its newest writes, send again from there
--        | 'fenced <state>': the lease is lost | 'error': run it for this task alone to be told
local call, running, lease_ms, now = redis.call, KEYS[1], tonumber(ARGV[1]), now_ms()
local TEXT, TOKEN_IDS = FIELD.TEXT, FIELD.TOKEN_IDS

-- at: where the task's arguments begin
local function append(task, log, at)
  local epoch, nonce, progress, first = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local held = call('HMGET', task, 'state', 'epoch', 'nonce', 'offset', 'cancel', 'lease_ms')
  if held[1] ~= 'running' or held[2] ~= epoch or held[3] ~= nonce then
    return 'fenced ' .. (held[1] or 'gone')
  end
  local stored = tonumber(held[4])
  if first > stored + 1 then
    return 'gap ' .. held[4]
  end
  local offset = stored
  for output = 0, ARGV[at + 5] - 1 do
    local number = first + output
    if number > offset then
      local index = at + 6 + 2 * output
      call('XADD', log, epoch .. '-' .. number, TEXT, ARGV[index], TOKEN_IDS, ARGV[index + 1])
      offset = number
    end
  end
  if offset > stored then
    call('HSET', task, 'offset', offset)
  end
  if progress ~= '' then
    call('HSET', task, 'progress', progress)
  end
  if held[6] - now < lease_ms * 7 / 8 then
    local lease = int(now + lease_ms)
    call('HSET', task, 'lease_ms', lease)
    call('ZADD', running, lease, ARGV[at])
  end
  return (held[5] and 'cancel ' or 'ok ') .. offset
end

if #KEYS == 3 then
  return append(KEYS[2], KEYS[3], 2)
end
local replies, at = {}, 2
for key = 2, #KEYS, 2 do
  local went_well, reply = pcall(append, KEYS[key], KEYS[key + 1], at)
  replies[key / 2] = went_well and reply or 'error'
  at = at + 6 + 2 * ARGV[at + 5]
end
return table.concat(replies, '\n')
