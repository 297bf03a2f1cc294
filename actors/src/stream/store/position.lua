-- Where a user's events stand. Begins a new epoch if there is none, or if another Redis wrote it: one that came
-- back with older data would give numbers out twice.
-- KEYS: position, history. ARGV[1]: name for a new epoch, ARGV[2]: seconds the position is kept.
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local stored = redis.call('HMGET', KEYS[1], 'run_id', 'epoch', 'seq', 'final')
local epoch, seq, final = stored[2], tonumber(stored[3]), tonumber(stored[4])
local changed = false
if stored[1] ~= run_id or not epoch or not seq then
  redis.call('DEL', KEYS[1], KEYS[2])
  epoch, seq, final = ARGV[1], 0, nil
  changed = true
end

local function save()
  redis.call('HSET', KEYS[1], 'run_id', run_id, 'epoch', epoch, 'seq', seq)
  if final then
    redis.call('HSET', KEYS[1], 'final', final)
  end
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
