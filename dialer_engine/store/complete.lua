-- complete: RUNNING -> COMPLETED. ARGV campaign run places("3.1.1000,5.2.20": the ends of the lists) now
local id, run, places, now = unpack(ARGV)
local now_is = state_of(id)
if now_is.state ~= 'RUNNING' or now_is.run ~= run then return 0 end
for _, name in ipairs({'fresh', 'due', 'live'}) do
  if call('EXISTS', campaign_key(id, name)) == 1 then return 0 end
end
local key, stands = campaign_key(id, 'run'), {}
for list in string.gmatch(call('HGET', key, 'lists') or '', '(%d+)%.%d+') do
  local at = call('HMGET', key, 'generation:' .. list, 'cursor:' .. list)
  table.insert(stands, list .. '.' .. (at[1] or '') .. '.' .. (at[2] or ''))
end
if table.concat(stands, ',') ~= places then return 0 end
call('HDEL', campaign_key(id, 'state'), 'reason')  -- first what needs no memory: it frees what a full Redis lacks
call('HSET', campaign_key(id, 'state'), 'state', 'COMPLETED', 'changed_at', now)
drop_waiting(id)
tell_state(now, id)
wake('campaign ' .. id)
return 1
