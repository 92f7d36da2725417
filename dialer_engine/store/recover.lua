-- recover: ARGV owner now deadBefore leaseDeadline knownAttempt ...; returns {released, attempt ...}
local owner, now, dead_before, lease = unpack(ARGV, 1, 4)
local mine = base .. ':daemon:' .. owner .. ':live'
call('ZREM', mine, '')  -- needs no memory: behind it a full Redis, too, lets a daemon that has just begun find its calls

-- What cannot be taken over, or released, because another program has spoilt it, keeps nobody else from it.
local function take_over(name)
  local theirs = base .. ':daemon:' .. name .. ':live'
  local leases = redis.pcall('ZRANGEBYSCORE', theirs, '-inf', now)
  if leases.err then return end
  for _, id in ipairs(leases) do
    if call('EXISTS', attempt_key(id)) == 1 then
      redis.pcall('HSET', attempt_key(id), 'owner', owner)
      call('ZADD', mine, lease, id)
    end
    call('ZREM', theirs, id)
  end
  if call('ZCARD', theirs) == 0 then call('ZREM', base .. ':daemons', name) end
end

for _, name in ipairs(call('ZRANGEBYSCORE', base .. ':daemons', '-inf', dead_before)) do
  if name ~= owner then take_over(name) end
end

local known = {}
for i = 5, #ARGV do known[ARGV[i]] = true end
local reply, released = {}, 0
for _, id in ipairs(call('ZRANGE', mine, 0, -1)) do
  if not known[id] then
    local readable, attempt = pcall(read_attempt, id)
    if not attempt then
      call('ZREM', mine, id)
    elseif readable and attempt.phase == 'CLAIMED' then
      if pcall(release_attempt, id, attempt) then released = released + 1 end
    else
      call('ZADD', mine, lease, id)
      if readable then table.insert(reply, id) end
    end
  end
end
table.insert(reply, 1, released)
return reply
