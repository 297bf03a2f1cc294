-- Gives positions to a batch of one user's events, keeps them, and publishes them as one message.
-- A final event is taken only right after the one before it; one that was taken before is passed over.
-- ARGV[3]: channel, ARGV[4]: events kept, ARGV[5]: seconds they are kept, ARGV[6]: '1' if the first final event
-- may follow any, then for each event its final number ('0' if none) and its line.
-- Answers: events dealt with, newest final number (-1 if none).
local jump = ARGV[6] == '1'
local taken = 0
local published = {}
for i = 7, #ARGV, 2 do
  local number = tonumber(ARGV[i])
  local relayed = number > 0 and final and number <= final
  if number > 0 and not relayed then
    if final and number ~= final + 1 and not jump then
      break
    end
    jump = false
    final = number
  end
  if not relayed then
    seq = seq + 1
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], string.format('%.0f-0', seq), 'e', ARGV[i + 1])
    published[#published + 1] = string.format('%.0f ', seq) .. ARGV[i + 1]
  end
  taken = taken + 1
end
if #published > 0 then
  save()
  redis.call('EXPIRE', KEYS[2], ARGV[5])
  redis.call('PUBLISH', ARGV[3], epoch .. '\n' .. table.concat(published, '\n'))
elseif changed then
  save()
end
return { taken, final or -1 }
