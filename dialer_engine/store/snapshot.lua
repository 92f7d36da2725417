-- snapshot: everything a pass looks at. ARGV now trunk ...
-- Returns {stopped, commands, {trunk live ...}, {list ...}, {ivr ...},
--          {campaign, definition, {state field, value ...}, {run field, value ...}, fresh, due, dueNow, nextDueAt|"", live} ...}
local now, trunks, campaigns = ARGV[1], {}, {}
for i = 2, #ARGV do table.insert(trunks, call('SCARD', base .. ':trunk:' .. ARGV[i] .. ':live')) end
for _, id in ipairs(call('SMEMBERS', base .. ':campaigns')) do
  local due = campaign_key(id, 'due')
  local waiting = call('ZCARD', due)
  local next_due = waiting > 0 and call('ZRANGE', due, 0, 0, 'WITHSCORES')[2] or ''
  table.insert(campaigns, {
    id, call('GET', campaign_key(id, 'definition')) or '', call('HGETALL', campaign_key(id, 'state')),
    call('HGETALL', campaign_key(id, 'run')), call('ZCARD', campaign_key(id, 'fresh')), waiting,
    waiting > 0 and call('ZCOUNT', due, '-inf', now) or 0, next_due, call('SCARD', campaign_key(id, 'live'))})
end
return {call('EXISTS', base .. ':stop'), call('LLEN', base .. ':commands'), trunks,
        call('SMEMBERS', base .. ':lists'), call('SMEMBERS', base .. ':ivrs'), campaigns}
