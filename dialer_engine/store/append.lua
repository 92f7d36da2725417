-- append: rows to one list (its own slot), each number once.
-- ARGV generation("": the current one; else that of an import) then per row: identity row
-- Returns {generation, written, repeats}, or {0, 0, 0} when the import has been given up.
local generation = ARGV[1]
if generation == '' then
  generation = call('HGET', base .. ':meta', 'generation') or '1'
elseif call('EXISTS', import_key(generation)) == 0 then
  return {0, 0, 0}
end
return {tonumber(generation), add_rows(generation, ARGV, 2)}
