-- rename: a list gets another name (its own slot). ARGV name expected mark|""
-- Returns its mark then, "" when it is not as expected
local before = mark_of_list()
if ARGV[2] ~= '' and before ~= ARGV[2] then return '' end
call('HSET', base .. ':meta', 'name', ARGV[1])
return mark_of_list()
