-- stage: rows for the end of one list (its own slot) are put by. ARGV number then per row: identity row
-- Returns 0 when the import has been given up.
if call('EXISTS', import_key(ARGV[1])) == 0 then return 0 end
for i = 2, #ARGV do call('RPUSH', base .. ':coming:' .. ARGV[1], ARGV[i]) end
return 1
