-- drop_generation: frees one generation of one list, or the rows put by under that number (its own slot), a slice
-- at a time. ARGV generation count; returns 1 while there is more.
local generation, count, meta = ARGV[1], tonumber(ARGV[2]), base .. ':meta'
local field = 'layers:' .. generation
local left = drop_seen(base .. ':seen:' .. generation, layers_of(meta, field), count)
if left ~= '' then
  call('HSET', meta, field, left)
  return 1
end
call('UNLINK', base .. ':rows:' .. generation, base .. ':coming:' .. generation)
call('HDEL', meta, field, 'layered:' .. generation, 'struck:' .. generation)
return 0
