-- save_ivr: a document, with who and when. ARGV ivr document new(1|0) by now [expected document]
-- Returns OK | MISSING | CHANGED
local id, document, new, by, now, expected = unpack(ARGV)
local key, ids = base .. ':ivr:' .. id, base .. ':ivrs'
local there = call('SISMEMBER', ids, id) == 1
if new == '0' and not there then return 'MISSING' end
if new == '1' and there then return 'OK' end  -- created before, and perhaps edited since
if expected and call('HGET', key, 'document') ~= expected then return 'CHANGED' end
call('HSET', key, 'document', document, 'updated_at', now, 'updated_by', by)
if new == '1' then
  call('HSET', key, 'created_at', now, 'created_by', by)
  call('SADD', ids, id)
end
audit(now, by, new == '1' and 'create' or 'edit', 'ivr ' .. id, '')
wake('ivr ' .. id)
return 'OK'
