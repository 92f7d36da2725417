-- dispose: what the agent says of a call: of one under way into its record, else an amendment of its result.
-- ARGV attempt extStatus by now amendment(JSON)
-- Returns PENDING | AMENDED | NOT_FOUND | NO_AGENT (it has not come to one yet)
local id, ext_status, by, now, amendment = unpack(ARGV)
local PAST_THE_IVR = {QUEUED = 1, HANDED_OVER = 1, CONNECTED = 1, ENDED = 1}

local function said_by(text)
  local readable, value = pcall(cjson.decode, text or '')
  return readable and type(value) == 'table' and value.extStatus
end

local attempt = read_attempt(id)
if attempt then
  local is_served = call('SISMEMBER', campaign_key(attempt.campaign, 'served'), id) == 1
  if not is_served and not PAST_THE_IVR[attempt.phase] then return 'NO_AGENT' end
  if attempt.disposition ~= ext_status then
    call('HSET', attempt_key(id), 'disposition', ext_status)
    audit(now, by, 'dispose', 'call ' .. id, ext_status)
  end
  return 'PENDING'
end

local campaign, result = unpack(noted('talked', id)[1] or {})
if not campaign then return 'NOT_FOUND' end
-- Its file is being written.
if is_through(result, call('HGET', campaign_key(campaign, 'archived'), 'closed')) then return 'NOT_FOUND' end
local key = campaign_key(campaign, 'amended')
local before = call('HGET', key, result)
local stands = before and said_by(before)
if not before then
  local entry = call('XRANGE', campaign_key(campaign, 'results'), result, result)[1]
  if not entry then return 'NOT_FOUND' end
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'extStatus' then stands = entry[2][i + 1] end
  end
end
if stands ~= ext_status then
  call('HSET', key, result, amendment)
  audit(now, by, 'dispose', 'call ' .. id, ext_status)
end
return 'AMENDED'
