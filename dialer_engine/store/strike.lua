-- strike: rows of one list (its own slot) become "-". ARGV generation identity, then per row: index row
-- Returns how many were struck out; a row that is no longer as given is left alone.
local generation = ARGV[1]
local rows, struck = base .. ':rows:' .. generation, 0
local layers = layers_of(base .. ':meta', 'layers:' .. generation)
local set, name, known = seen(base .. ':seen:' .. generation, layers, ARGV[2])
for i = 3, #ARGV, 2 do
  local row = call('LINDEX', rows, ARGV[i])
  if row and reads_as(row, ARGV[i + 1]) then
    call('LSET', rows, ARGV[i], '-')
    struck = struck + 1
  end
end
if known then call('SREM', set, name) end
if struck > 0 then count(base .. ':meta', 'struck:' .. generation, struck) end
return struck
