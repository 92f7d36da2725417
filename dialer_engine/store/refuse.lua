-- refuse: what cannot be understood leaves the queue of commands. ARGV text, as it was read
-- Returns 0 when it is gone already
local head = call('LINDEX', base .. ':commands', 0)
if not head or not reads_as(head, ARGV[1]) then return 0 end
call('LPOP', base .. ':commands')
return 1
