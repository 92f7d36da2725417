-- append: rows to one list (its own slot), each number once. ARGV generation|"" then per row: identity row
-- Returns {generation, written, repeats}
local meta = base .. ':meta'
local generation = ARGV[1] ~= '' and ARGV[1] or call('HGET', meta, 'generation') or '1'
local layers, prefix = layers_of(meta, 'layers:' .. generation), base .. ':seen:' .. generation
local written, repeats = 0, 0
make_room(meta, ':' .. generation, layers, (#ARGV - 1) / 2)
for i = 2, #ARGV, 2 do
  local set, name, known = seen(prefix, layers, ARGV[i])
  if known then
    repeats = repeats + 1
  else
    call('RPUSH', base .. ':rows:' .. generation, ARGV[i + 1])
    call('SADD', set, name)
    written = written + 1
  end
end
if written > 0 then call('HINCRBY', meta, 'layered:' .. generation, written) end
return {tonumber(generation), written, repeats}
