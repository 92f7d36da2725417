-- sweep: frees what an ended run has left, a slice at a time. ARGV count; returns 1 while there is more.
local unwanted = base .. ':unwanted'
local entry = call('LINDEX', unwanted, 0)
if not entry then return 0 end
local prefix, layers = string.match(entry, '^(.*) ([%d,]+)$')  -- none: another program's
local left = prefix and drop_seen(prefix, layers_in(layers), tonumber(ARGV[1])) or ''
if left == '' then call('LPOP', unwanted) else call('LSET', unwanted, 0, prefix .. ' ' .. left) end
return call('EXISTS', unwanted)
