-- progress: what must survive a crash. ARGV attempt owner|"" field value ...
-- Returns 0 when the attempt is settled, or another daemon's: what he has recorded since must stand.
local owner = call('HGET', attempt_key(ARGV[1]), 'owner')
if not owner or (ARGV[2] ~= '' and owner ~= ARGV[2]) then return 0 end
call('HSET', attempt_key(ARGV[1]), unpack(ARGV, 3))
return 1
