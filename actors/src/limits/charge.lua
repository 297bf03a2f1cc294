-- Charges one request to every bucket, or to none: see state.rs for the rule.
-- KEYS: the buckets. ARGV: of each, what a request costs and how much there is room for, in microseconds.
-- Answers the time, 1 where all had room, and what each bucket owes then.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local granted, owed = 1, {}
for i, full_at in ipairs(redis.call('MGET', unpack(KEYS))) do
  local cost, room = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  -- no more than a whole bucket: a clock that was set back must not lock anybody out
  owed[i] = math.min(math.max((tonumber(full_at) or now) - now, 0), room)
  if owed[i] + cost > room then granted = 0 end
end
if granted == 1 then
  for i, key in ipairs(KEYS) do
    owed[i] = owed[i] + ARGV[2 * i - 1]
    local full_at = string.format('%.0f', now + owed[i])
    redis.call('SET', key, full_at, 'PX', math.ceil(owed[i] / 1000))
  end
end
return {now, granted, unpack(owed)}
