-- account: one user or API token, compared and set. ARGV hash name old new now by action
-- old '': there must be none yet; new '': it is removed. Returns 1, or 0: somebody else has changed it meanwhile.
local hash, name, old, new, now, by, action = unpack(ARGV)
local key = base .. ':' .. hash
if (call('HGET', key, name) or '') ~= old then return 0 end
if new == '' then call('HDEL', key, name) else call('HSET', key, name, new) end
audit(now, by, action, string.sub(hash, 1, -2) .. ' ' .. name, '')
return 1
