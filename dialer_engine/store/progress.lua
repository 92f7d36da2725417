-- progress: what must survive a crash. ARGV attempt owner|"" field value ...
-- Returns GONE when the attempt is settled or lost, OTHER when it is another daemon's: what he has recorded since
-- must stand.
local owner = call('HGET', attempt_key(ARGV[1]), 'owner')
if not owner then return 'GONE' end
if ARGV[2] ~= '' and owner ~= ARGV[2] then return 'OTHER' end
call('HSET', attempt_key(ARGV[1]), unpack(ARGV, 3))
return 'OK'
