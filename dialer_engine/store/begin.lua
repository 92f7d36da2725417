-- begin: an import of rows to one list (its own slot). ARGV new(1: the list is made by it|0) seconds
-- It lives as long as its key does, and its process keeps that alive. Whoever dies before it is registered leaves that
-- key alone. Returns the number: of the generation it fills, or of the rows it puts by.
local meta, number = base .. ':meta', 1
local begun = call('HMGET', meta, 'generation', 'allotted')
if ARGV[1] == '0' or begun[2] or call('EXISTS', import_key(1), base .. ':rows:1') > 0 then
  number = math.max(tonumber(begun[1]) or 1, tonumber(begun[2]) or 0) + 1
  -- Another program may be filling its next generation.
  while call('EXISTS', base .. ':rows:' .. number) == 1 do number = number + 1 end
  call('HSET', meta, 'allotted', number)
end
call('SET', import_key(number), '', 'EX', ARGV[2])
return number
