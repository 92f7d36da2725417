-- delete: a campaign with all it left. ARGV campaign by now [expected definition]
-- Returns {"OK", ""} | {"MISSING", ""} | {"CHANGED", ""} | {"CONFLICT", why}
local id, by, now, expected = unpack(ARGV)
local MOST_RUNS = 100000
if call('SISMEMBER', base .. ':campaigns', id) == 0 then return {'MISSING', ''} end
if expected and call('GET', campaign_key(id, 'definition')) ~= expected then return {'CHANGED', ''} end
local now_is = state_of(id)
local active = now_is.state == 'INVALID' and now_is.was or now_is.state
if active == 'RUNNING' or active == 'PAUSED' then return {'CONFLICT', 'the campaign is ' .. now_is.state} end
if call('EXISTS', campaign_key(id, 'live')) == 1 then return {'CONFLICT', 'the campaign has live calls'} end
call('UNLINK', campaign_key(id, 'plan'))  -- first what frees: a full Redis must be able to become emptier
audit(now, by, 'delete', 'campaign ' .. id, '')
drop_waiting(id)
for run = 0, math.min(tonumber(now_is.run) or 0, MOST_RUNS) do
  call('UNLINK', campaign_key(id, 'stats:' .. run))
  drop_parts(id, run)
end
for _, name in ipairs({'definition', 'versions', 'state', 'run', 'results', 'amended', 'archived', 'served'}) do
  call('UNLINK', campaign_key(id, name))
end
call('UNLINK', base .. ':dnc:campaign:' .. id)
call('SREM', base .. ':campaigns', id)
wake('campaign ' .. id)
return {'OK', ''}
