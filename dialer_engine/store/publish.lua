-- publish: a generation that is whole becomes the current one of its list (its own slot).
-- ARGV generation name|"" expected mark|""
-- Returns {OK, mark of the list then} | {GONE} (the import has been given up) | {LATER} (a later one has become current
-- meanwhile) | {CHANGED}
local meta, generation = base .. ':meta', ARGV[1]
if call('EXISTS', import_key(generation)) == 0 then return {'GONE'} end
if ARGV[3] ~= '' and mark_of_list() ~= ARGV[3] then return {'CHANGED'} end
if tonumber(generation) < tonumber(call('HGET', meta, 'generation') or 1) then return {'LATER'} end
call('LLEN', base .. ':rows:' .. generation)  -- is it a list?
call('HSET', meta, 'generation', generation)
if ARGV[2] ~= '' then call('HSET', meta, 'name', ARGV[2]) end
return {'OK', mark_of_list()}
