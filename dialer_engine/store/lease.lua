-- lease: one daemon at a time does this. ARGV what owner seconds(0: it is done); returns 1 while it is the owner's.
-- DEL first: a full Redis refuses a script only at its first command, and the archive must be able to empty it.
local key = base .. ':lease:' .. ARGV[1]
local holder = call('GET', key)
if holder and holder ~= ARGV[2] then return 0 end
call('DEL', key)
if ARGV[3] ~= '0' then call('SET', key, ARGV[2], 'EX', ARGV[3]) end
return 1
