-- claim: contacts leave `fresh` or `due` and become attempts with a lease.
-- ARGV campaign run owner trunk maxChannels trunkCapacity periodUntil|"" leaseDeadline now,
--      then per request: attempt member number identity attributes
-- Returns {{kind, reason, ...}, campaignLive, trunkLive, nextDueAt|"", state, run, campaignServed}
local id, run, owner, trunk = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local max_channels, capacity, lease, now = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[8], ARGV[9]
local NUMBER_BUSY_SECONDS = 10

local campaign_live, trunk_live = campaign_key(id, 'live'), base .. ':trunk:' .. trunk .. ':live'
local leases, daemons, numbers = base .. ':daemon:' .. owner .. ':live', base .. ':daemons', base .. ':live-numbers'
for _, key in ipairs({campaign_key(id, 'fresh'), campaign_key(id, 'due'), leases, daemons}) do call('ZCARD', key) end
for _, key in ipairs({campaign_live, trunk_live}) do call('SCARD', key) end
for _, key in ipairs({numbers, base .. ':dnc:all', base .. ':dnc:campaign:' .. id}) do call('HLEN', key) end
local before = {}  -- what was claimed before: the reply was lost
local why = stopped(id, run)
if not why and ARGV[7] ~= '' and tonumber(now) >= tonumber(ARGV[7]) then why = 'the active period is over' end

local function where(member)
  local score = call('ZSCORE', campaign_key(id, 'fresh'), member)
  if score then return 'fresh', score end
  score = call('ZSCORE', campaign_key(id, 'due'), member)
  if score and tonumber(score) <= tonumber(now) then return 'due', score end
end

local function number_is_busy(identity)
  local other = call('HGET', numbers, identity)
  return other and call('EXISTS', attempt_key(other)) == 1  -- an entry without its attempt binds nobody
end

local function claim(attempt, member, number, identity, attributes)
  local claimed = before[attempt]
  if claimed then return claimed.forbidden and 'FORBIDDEN' or 'CLAIMED', claimed.forbidden or '' end
  if why then return 'STOPPED', why end
  local from, score = where(member)
  if not from then return 'GONE', '' end
  if call('SCARD', campaign_live) >= max_channels then return 'FULL', 'maxChannels' end
  if call('SCARD', trunk_live) >= capacity then return 'FULL', 'trunk capacity' end
  if number_is_busy(identity) then
    call('ZADD', campaign_key(id, 'due'), tonumber(now) + NUMBER_BUSY_SECONDS, member)
    if from == 'fresh' then call('ZREM', campaign_key(id, 'fresh'), member) end
    return 'NUMBER_BUSY', ''
  end
  local reason = forbidden(id, identity, now)
  call('HSET', attempt_key(attempt), 'campaign', id, 'run', run, 'member', member, 'from', from, 'score', score,
       'number', number, 'identity', identity, 'attributes', attributes, 'trunk', trunk, 'owner', owner,
       'phase', 'CLAIMED', 'claimed_at', now, 'until', ARGV[7])
  if reason then call('HSET', attempt_key(attempt), 'forbidden', reason) end
  call('ZREM', campaign_key(id, from), member)
  call('SADD', campaign_live, attempt)
  call('SADD', trunk_live, attempt)
  call('ZADD', leases, lease, attempt)
  call('ZADD', daemons, now, owner)
  call('HSET', numbers, identity, attempt)
  return reason and 'FORBIDDEN' or 'CLAIMED', reason or ''
end

for i = 10, #ARGV, 5 do before[ARGV[i]] = read_attempt(ARGV[i]) end
local outcomes = {}
for i = 10, #ARGV, 5 do
  local kind, reason = claim(unpack(ARGV, i, i + 4))
  table.insert(outcomes, kind)
  table.insert(outcomes, reason)
end
local next_due = call('ZRANGE', campaign_key(id, 'due'), 0, 0, 'WITHSCORES')
local now_is = state_of(id)
return {outcomes, call('SCARD', campaign_live), call('SCARD', trunk_live), next_due[2] or '',
        now_is.state, now_is.run, tonumber(redis.pcall('SCARD', campaign_key(id, 'served'))) or 0}
