-- drop_generation: frees one generation of one list (its own slot). ARGV generation; returns 1
local generation, meta = ARGV[1], base .. ':meta'
drop_seen(base .. ':seen:' .. generation, layers_of(meta, 'layers:' .. generation))
call('UNLINK', base .. ':rows:' .. generation)
call('HDEL', meta, 'layers:' .. generation, 'layered:' .. generation, 'struck:' .. generation)
return 1
