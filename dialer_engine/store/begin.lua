-- begin: an import of rows to one list (its own slot). ARGV number("": the next one) seconds
-- It lives as long as its key does, and its process keeps that alive. Returns the number: of the generation it
-- fills, or of the rows it puts by.
local meta, number = base .. ':meta', ARGV[1]
if number == '' then
  local now_is = call('HMGET', meta, 'generation', 'allotted')
  number = math.max(tonumber(now_is[1] or 1), tonumber(now_is[2] or 0)) + 1
  call('HSET', meta, 'allotted', number)
end
call('SET', import_key(number), '', 'EX', ARGV[2])
return tonumber(number)
