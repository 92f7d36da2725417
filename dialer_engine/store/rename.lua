-- rename: a list gets another name (its own slot). ARGV name expected mark|""; returns 0 when it is not as expected
if ARGV[2] ~= '' and mark_of_list() ~= ARGV[2] then return 0 end
call('HSET', base .. ':meta', 'name', ARGV[1])
return 1
