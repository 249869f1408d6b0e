-- submit(keys of the task, mine, idem | id, owner, priority, spec, deadline_ms, retention_ms, most_waiting, most_open,
--        '1' with an Idempotency-Key | '0', request, audio_bytes, most_audio_bytes)
-- Accepts a task: after the reply it survives every process. Again with the same id, or the same Idempotency-Key: no effect.
--
-- task       hash   created here: owner spec state epoch nonce offset attempt tries score created_ms deadline_ms
--                   retention_ms; later lease_ms claimed_offset model started_ms finished_ms progress cancel
--                   released (nonce of the last lease that was given back)
-- waiting    zset   its score: the priority band, then the owner's virtual start time, one step a task
-- idem       string `<id> <request>`; the task's own key when no Idempotency-Key was given
--
-- audio  string the file of a transcription, of audio_bytes, already written; it has to be there
-- audios hash   its size, counted against most_audio_bytes
--
-- Reply: {'ok', id} | {'mismatch'} | {'queue_full'} | {'too_many'} | {'audio_full'} | {'audio_gone'}
local keys = whole()
local mine, idem = KEYS[14], KEYS[15]
local id, owner, priority, spec = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local deadline_ms, retention_ms = tonumber(ARGV[5]), tonumber(ARGV[6])
local most_waiting, most_open, keyed, request = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9] == '1', ARGV[10]
local audio_bytes, most_audio_bytes = tonumber(ARGV[11] or '0'), tonumber(ARGV[12] or '0')

if redis.call('EXISTS', keys.task, keys.gone) > 0 then -- gone: ended or erased before the reply came through
  return { 'ok', id }
end
if keyed then
  local known = redis.call('GET', idem)
  if known then
    local known_id, known_request = known:match('^(%S+) (.*)$')
    return known_request == request and { 'ok', known_id } or { 'mismatch' }
  end
end
if redis.call('ZCARD', keys.waiting) >= most_waiting then
  return { 'queue_full' }
end
if tonumber(redis.call('HGET', keys.open, owner) or '0') >= most_open then
  return { 'too_many' }
end

if audio_bytes > 0 then
  if redis.call('STRLEN', keys.audio) ~= audio_bytes then
    return { 'audio_gone' }
  end
  local held = audio_bytes
  for _, size in ipairs(redis.call('HVALS', keys.audios)) do
    held = held + tonumber(size)
  end
  if held > most_audio_bytes then
    return { 'audio_full' }
  end
  redis.call('HSET', keys.audios, id, audio_bytes)
  redis.call('PEXPIRE', keys.audio, int(deadline_ms + retention_ms))
end

local now = now_ms()
local start = math.max(virtual_time(keys.clock), tonumber(redis.call('ZSCORE', keys.ahead, owner) or '0'))
local score = int((9 - priority) * BAND + start)
redis.call('ZADD', keys.ahead, int(start + 1), owner)
redis.call('HINCRBY', keys.open, owner, 1)
-- First into the lists: a Redis that came back with half of this has a name in a list, which the next claim takes out,
-- rather than a task that no list names and that a retry takes for accepted.
redis.call('ZADD', keys.waiting, score, id)
redis.call('ZADD', keys.deadlines, int(now + deadline_ms), id)
redis.call('XADD', keys.log, '0-1', FIELD.KIND, 'queued')
redis.call('HSET', keys.task, 'owner', owner, 'spec', spec, 'state', 'queued', 'epoch', '0', 'nonce', '', 'offset', '0',
  'attempt', '0', 'tries', '0', 'score', score, 'created_ms', int(now), 'deadline_ms', int(now + deadline_ms),
  'retention_ms', int(retention_ms))
-- Earlier tasks of the owner may have been given more time than this one, so the longer of the two counts.
local listed_ms = math.max(redis.call('PTTL', mine), 2 * (deadline_ms + retention_ms))
redis.call('ZADD', mine, int(now), id)
redis.call('ZREMRANGEBYSCORE', mine, '-inf', int(now - listed_ms))
redis.call('PEXPIRE', mine, int(listed_ms))
if keyed then
  redis.call('SET', idem, id .. ' ' .. request, 'PX', int(deadline_ms + retention_ms))
end
ring(keys.bell, 'work', id)
return { 'ok', id }
