-- begin: an import of rows to one list (its own slot). ARGV number("": the next one; new: 1, if nobody has begun) seconds
-- It lives as long as its key does, and its process keeps that alive. Whoever dies before it is registered leaves that
-- key alone. Returns the number: of the generation it fills, or of the rows it puts by.
local meta, number = base .. ':meta', ARGV[1]
local begun = call('HMGET', meta, 'generation', 'allotted')
if number == 'new' and not begun[2] and call('EXISTS', import_key(1), base .. ':rows:1') == 0 then
  number = 1
elseif not tonumber(number) then
  number = math.max(tonumber(begun[1]) or 1, tonumber(begun[2]) or 0) + 1
  call('HSET', meta, 'allotted', number)
end
call('SET', import_key(number), '', 'EX', ARGV[2])
return tonumber(number)
