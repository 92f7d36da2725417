-- move: rows put by go to the end of the list (its own slot), a slice at a time. ARGV number count
-- Returns {rows left, generation, written, repeats}
local meta, coming = base .. ':meta', base .. ':coming:' .. ARGV[1]
local generation = call('HGET', meta, 'moving:' .. ARGV[1])
if not generation then return {0, 0, 0, 0} end
local rows = call('LRANGE', coming, 0, 2 * ARGV[2] - 1)
call('HDEL', meta, '')  -- needs no memory, and neither does what moves: a full Redis, too, lets it be finished
local written, repeats = add_rows(generation, rows, 1)
call('LTRIM', coming, #rows, -1)
local left = call('LLEN', coming) / 2
if left == 0 then call('HDEL', meta, 'moving:' .. ARGV[1]) end
return {left, tonumber(generation), written, repeats}
