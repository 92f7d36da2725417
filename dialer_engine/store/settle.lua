-- settle: the result is written and the contact let go, once.
-- ARGV attempt owner|"" next(REDIAL|RETURN|CLOSE) member at now disposition(it was decided with)|"" hour oldest_hour
--      counters sums, then counter ..., sum amount ..., field value ... of the result
-- Returns DONE | GONE (it was done before, or is no more for this owner to do) | CHANGED (the agent says otherwise)
local id, owner, next_is, member, at, now, disposition = unpack(ARGV, 1, 7)
local hour, oldest_hour, counters, sums = unpack(ARGV, 8, 11)
local FIRST = 12
local attempt = read_attempt(id)
if not attempt or (owner ~= '' and attempt.owner ~= owner) then return 'GONE' end
if (attempt.disposition or '') ~= disposition then return 'CHANGED' end
for _, name in ipairs({'fresh', 'due'}) do call('ZCARD', campaign_key(attempt.campaign, name)) end
local goes_on = run_goes_on(attempt.campaign, attempt.run)
local redials = goes_on and next_is == 'REDIAL'
local said_at = FIRST + counters + 2 * sums
local said = {}
for i = said_at, #ARGV, 2 do said[ARGV[i]] = ARGV[i + 1] end

-- Returns how often the first counter has been counted there, if that can be told.
local function count_in(key, part)
  local first = redis.pcall('HINCRBY', key, ARGV[FIRST] .. part, 1)
  for i = FIRST + 1, FIRST + counters - 1 do redis.pcall('HINCRBY', key, ARGV[i] .. part, 1) end
  for i = FIRST + counters, said_at - 1, 2 do redis.pcall('HINCRBYFLOAT', key, ARGV[i] .. part, ARGV[i + 1]) end
  return first
end

-- For the whole run, and for each part of it that the call was in: "COUNTER PART". When an hour has just begun,
-- those that are too old go.
local function count_call()
  local stats = campaign_key(attempt.campaign, 'stats:' .. attempt.run)
  local hours = stats .. ':hours'
  count_in(stats, '')
  count_in(stats .. ':lists', ' ' .. (string.match(attempt.member, '^%d+') or '0'))
  if said.agent ~= '' then count_in(stats .. ':agents', ' ' .. said.agent) end
  if count_in(hours, ' ' .. hour) ~= 1 then return end
  for _, field in ipairs(call('HKEYS', hours)) do
    if (string.match(field, ' (.*)$') or '') < oldest_hour then call('HDEL', hours, field) end
  end
end

local result = call('XADD', campaign_key(attempt.campaign, 'results'), '*', 'attempt', id, 'run', attempt.run,
     'member', attempt.member, 'number', attempt.number, 'attributes', attempt.attributes,
     'redial', redials and at or '', 'at', now, unpack(ARGV, said_at))
note('calls', attempt.identity, attempt.campaign, result)
if said.connectedAt ~= '' then note('talked', id, attempt.campaign, result) end
count_call()
if redials then
  call('ZADD', campaign_key(attempt.campaign, 'due'), at, member)
elseif goes_on and next_is == 'RETURN' then
  put_back(attempt, member)
elseif state_of(attempt.campaign).run == attempt.run then
  close_contact(attempt.campaign, attempt.member)
end
forget_attempt(id, attempt)
tell(now, 'result', {campaign = tonumber(attempt.campaign), run = tonumber(attempt.run), attempt = id,
                     number = attempt.number, status = said.status,
                     extStatus = said.extStatus ~= '' and said.extStatus or nil, redialAt = redials and at or nil})
return 'DONE'
