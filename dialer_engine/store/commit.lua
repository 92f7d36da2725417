-- commit: the rows put by belong to the current generation of the list (its own slot), whatever becomes of who put
-- them there. ARGV number; returns 0 when the import has been given up.
if call('EXISTS', import_key(ARGV[1])) == 0 then return 0 end
local meta = base .. ':meta'
call('HSET', meta, 'moving:' .. ARGV[1], call('HGET', meta, 'generation') or '1')
return 1
