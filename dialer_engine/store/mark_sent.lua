-- mark_sent: the last look before the originate. ARGV attempt owner now; returns {kind, reason}
local id, owner, now = unpack(ARGV)
local attempt = read_attempt(id)
if not attempt or attempt.owner ~= owner then return {'GONE', ''} end
if attempt.phase ~= 'CLAIMED' then return {'OK', ''} end
local why = stopped(attempt.campaign, attempt.run)
local period_end = tonumber(attempt.period_end)
if not why and period_end and tonumber(now) >= period_end then why = 'the active period is over' end
if why then return {'STOPPED', why} end
local reason = forbidden(attempt.campaign, attempt.identity, now)
if reason then
  call('HSET', attempt_key(id), 'forbidden', reason)
  return {'FORBIDDEN', reason}
end
call('HSET', attempt_key(id), 'phase', 'SENT', 'sent_at', now)
return {'OK', ''}
