-- fence: results up to an id are not amended any more: they are about to leave. ARGV campaign last
-- HDEL first: a full Redis refuses a script only at its first command, and the archive must be able to empty it.
local key, last = campaign_key(ARGV[1], 'archived'), ARGV[2]
local closed = call('HGET', key, 'closed')
if is_through(last, closed) then return 0 end
call('HDEL', key, 'closed')
call('HSET', key, 'closed', last)
return 1
