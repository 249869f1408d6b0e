-- settle(keys of the task | id, epoch, nonce, state, total, field, value, ...)
-- Ends the task for good, by its holder: the terminal entry after `total` outputs. Repeating it changes nothing.
--
-- Reply: {'ok'} | {'gap', stored outputs}: append the missing ones first | {'fenced', state}
local keys = whole()
local id, epoch, nonce, state, total = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local held = redis.call('HMGET', keys.task, 'state', 'epoch', 'nonce', 'offset')

if held[1] == state and held[2] == epoch and held[3] == nonce then
  return { 'ok' }
end
if held[1] ~= 'running' or held[2] ~= epoch or held[3] ~= nonce then
  return { 'fenced', held[1] or 'gone' }
end
if held[4] ~= total then
  return { 'gap', held[4] }
end
local ended = finish(keys, id, state, epoch .. '-' .. int(tonumber(total) + 1), { unpack(ARGV, 6) })
return ended == state and { 'ok' } or ended
