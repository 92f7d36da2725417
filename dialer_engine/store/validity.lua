-- validity: into INVALID and back. ARGV campaign reason("" = valid again) now; returns 1 when the state changed
-- REMOVED stays REMOVED: what was ended on purpose needs no mending.
local id, reason, now = unpack(ARGV)
local key, now_is = campaign_key(id, 'state'), state_of(id)
if call('SISMEMBER', base .. ':campaigns', id) == 0 or now_is.state == 'REMOVED' then return 0 end
if reason == '' then
  if now_is.state ~= 'INVALID' then return 0 end
  call('HDEL', key, 'reason')  -- first, as in `invalidate`
  call('HSET', key, 'state', now_is.was, 'changed_at', now)
  tell_state(now, id)
  wake('campaign ' .. id)
  return 1
end
return invalidate(id, now_is, reason, now)
