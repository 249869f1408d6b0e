-- Runs before every script. Renders in from Python: FIELD (wire/record.py) and MAY (core/state.py); see store/scripts.py.
-- All times are Redis' own, in ms; leases and epochs never depend on a client's clock.

local BELL_LENGTH, DEAD_LENGTH = 1000, 1000
local BAND = 1e12 -- virtual time of one priority: more than is ever used, and every score is a whole number

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function int(number)
  return string.format('%.0f', number)
end

-- The keys of keys.Shard.whole, by name.
local function whole()
  return {
    task = KEYS[1], log = KEYS[2], waiting = KEYS[3], running = KEYS[4], deadlines = KEYS[5], open = KEYS[6],
    ahead = KEYS[7], clock = KEYS[8], bell = KEYS[9], dead = KEYS[10], gone = KEYS[11],
    audio = KEYS[12], audios = KEYS[13],
  }
end

local function ring(bell, what, id)
  redis.call('XADD', bell, 'MAXLEN', '~', BELL_LENGTH, '*', what, id)
end

local function last_entry(log)
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  return newest[1] and newest[1][1] or '0-0'
end

-- An epoch above the task's own, above the clock and above a floor. By time, so that it also rises when Redis lost its
-- newest writes and with them the newest epochs. Above the log's too: a torn write may have left an entry there.
local function next_epoch(epoch, floor, last)
  return math.max(tonumber(epoch) + 1, now_ms(), tonumber(floor) + 1, tonumber(last:match('^%d+')) + 1)
end

-- Virtual time: that of the task claimed last, while anybody has unfinished tasks.
local function virtual_time(clock)
  return tonumber(redis.call('GET', clock) or '0')
end

-- One unfinished task of the owner less. Whoever has none left is one task ahead of the clock at most, so nobody is charged
-- for a thousand that were cancelled; when nobody has any, virtual time begins anew.
local function close_one(keys, owner)
  if redis.call('HINCRBY', keys.open, owner, -1) > 0 then
    return
  end
  redis.call('HDEL', keys.open, owner)
  if redis.call('EXISTS', keys.open) == 0 then
    redis.call('DEL', keys.ahead, keys.clock)
  else
    redis.call('ZADD', keys.ahead, 'XX', 'LT', int(virtual_time(keys.clock) + 1), owner)
  end
end

-- Leaves a tombstone that stays at least as long as an Idempotency-Key may name the task.
local function bury(keys, epitaph, retention_ms, deadline_ms)
  local retention = tonumber(retention_ms)
  local named = tonumber(deadline_ms) - now_ms() + retention
  redis.call('SET', keys.gone, epitaph, 'PX', int(math.max(2 * retention, named)))
end

-- The audio of a transcription is of no use once its task has ended.
local function drop_audio(keys, id)
  redis.call('UNLINK', keys.audio)
  redis.call('HDEL', keys.audios, id)
end

-- Ends a task for good: the terminal entry `fields` at stream id `entry`, the state, the queues, the retention.
local function finish(keys, id, state, entry, fields)
  local old = redis.call('HMGET', keys.task, 'state', 'owner', 'retention_ms', 'deadline_ms')
  if not MAY[old[1]][state] then
    return redis.error_reply('ERR sibyl: no way from ' .. old[1] .. ' to ' .. state)
  end
  local now = now_ms()
  redis.call('XADD', keys.log, entry, unpack(fields))
  redis.call('HSET', keys.task, 'state', state, 'finished_ms', int(now))
  redis.call('HDEL', keys.task, 'progress')
  redis.call('ZREM', keys.waiting, id)
  redis.call('ZREM', keys.running, id)
  redis.call('ZREM', keys.deadlines, id)
  drop_audio(keys, id)
  close_one(keys, old[2])
  redis.call('PEXPIRE', keys.task, old[3])
  redis.call('PEXPIRE', keys.log, old[3])
  bury(keys, state, old[3], old[4])
  return state
end

-- Ends a task that nobody may write to now: raises the epoch, which fences whoever held it.
local function finish_unheld(keys, id, state, floor, extra)
  local old = redis.call('HMGET', keys.task, 'epoch', 'offset')
  local last = last_entry(keys.log)
  local epoch = next_epoch(old[1], floor, last)
  local fields = { FIELD.KIND, state, FIELD.KEPT, old[2], FIELD.PREVIOUS, last }
  for _, value in ipairs(extra or {}) do
    fields[#fields + 1] = value
  end
  redis.call('HSET', keys.task, 'epoch', int(epoch), 'nonce', '')
  return finish(keys, id, state, int(epoch) .. '-' .. int(tonumber(old[2]) + 1), fields)
end
