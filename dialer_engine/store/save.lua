-- save: a definition and its version. ARGV campaign definition version(JSON) new(1|0) by now [expected]
-- Returns OK | MISSING | CHANGED
local id, definition, version, new, by, now, expected = unpack(ARGV)
local key = campaign_key(id, 'definition')
local old = call('GET', key)
local there, now_is = call('SISMEMBER', base .. ':campaigns', id) == 1, state_of(id)
if new == '0' and not there then return 'MISSING' end
if new == '1' and there then return 'OK' end  -- created before, and perhaps edited since
if old ~= definition then
  if expected and old ~= expected then return 'CHANGED' end
  call('RPUSH', campaign_key(id, 'versions'), version)
  call('SET', key, definition)
  call('SADD', base .. ':campaigns', id)
  audit(now, by, new == '1' and 'create' or 'edit', 'campaign ' .. id, '')
end
if now_is.state == 'INVALID' then
  call('HSET', campaign_key(id, 'state'), 'state', now_is.was, 'changed_at', now)
  call('HDEL', campaign_key(id, 'state'), 'reason')
  tell_state(now, id, by)
end
wake('campaign ' .. id)
return 'OK'
