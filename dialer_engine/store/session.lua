-- session: a new one, or its next refresh token for an old one. ARGV id old new now idle_seconds [user stamp rights ends]
-- old '': a new one. Otherwise a token used for the second time ends the session: either the thief or the owner came
-- first, and nobody can tell which. Within GRACE it is a reply that was lost, or two windows of one person.
-- Returns {user, stamp, rights, seconds}, or {}: there is no such session (any more).
local GRACE, LIVE, KEPT = 30, 9e15, 32
local id, old, new, now, idle = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local key = base .. ':session:' .. id
local tokens = key .. ':tokens'
local user, stamp, rights, ends = unpack(ARGV, 6)
if old ~= '' then
  user, stamp, rights, ends = unpack(call('HMGET', key, 'user', 'stamp', 'rights', 'ends'))
  if not user then return {} end
end
local seconds = math.floor(math.min(idle, ends - now))
local used_at = old == '' and LIVE or tonumber(call('ZSCORE', tokens, old) or 0)
if seconds < 1 or used_at + GRACE < now then
  call('UNLINK', key, tokens)
  return {}
end
call('ZADD', tokens, LIVE, new)
if old == '' then
  call('HSET', key, 'user', user, 'stamp', stamp, 'rights', rights, 'ends', ends)
elseif used_at == LIVE then
  call('ZADD', tokens, now, old)
end
call('ZREMRANGEBYRANK', tokens, 0, -KEPT - 1)
call('EXPIRE', key, seconds)
call('EXPIRE', tokens, seconds)
return {user, stamp, rights, seconds}
