-- Reads where a user's events stand and, if the reader is in the same epoch, the events after its position.
-- ARGV[3]: newest final event in PostgreSQL, for an epoch that has had none; ARGV[4]: the reader's epoch ('' for
-- none), ARGV[5]: its seq, ARGV[6]: events at most, ARGV[7]: bytes at most (one event is always given).
-- Answers: epoch, seq, final, and for each event its seq and its line.
if not final then
  final = tonumber(ARGV[3])
  changed = true
end
if changed then
  save()
end
local answer = { epoch, seq, final }
if ARGV[4] == epoch and seq > tonumber(ARGV[5]) then
  local bytes = 0
  local after = string.format('%.0f-0', tonumber(ARGV[5]) + 1)
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', ARGV[6])) do
    local line = entry[2][2]
    bytes = bytes + #line
    if #answer > 3 and bytes > tonumber(ARGV[7]) then
      break
    end
    answer[#answer + 1] = tonumber(string.match(entry[1], '^%d+'))
    answer[#answer + 1] = line
  end
end
return answer
