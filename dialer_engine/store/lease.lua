-- lease: one daemon at a time does this. ARGV what owner seconds(0: it is done); returns 1 while it is the owner's.
local key = base .. ':lease:' .. ARGV[1]
local holder = call('GET', key)
if holder and holder ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then call('DEL', key) else call('SET', key, ARGV[2], 'EX', ARGV[3]) end
return 1
