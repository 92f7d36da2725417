-- delete_ivr: an IVR that no campaign names. ARGV ivr by now [expected document]; returns OK | MISSING | CHANGED
local id, by, now, expected = unpack(ARGV)
local key = base .. ':ivr:' .. id
if call('SISMEMBER', base .. ':ivrs', id) == 0 then return 'MISSING' end
if expected and call('HGET', key, 'document') ~= expected then return 'CHANGED' end
call('SREM', base .. ':ivrs', id)
audit(now, by, 'delete', 'ivr ' .. id, '')
call('UNLINK', key)
wake('ivr ' .. id)
return 'OK'
