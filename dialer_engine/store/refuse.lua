-- refuse: what cannot be understood leaves the queue of commands. ARGV text, as it was read
-- Bytes that are no UTF-8 were read as U+FFFD, so only the ASCII is compared. Returns 0 when it is gone already
local function ascii(text) return (string.gsub(text, '[\128-\255]', '')) end
local head = call('LINDEX', base .. ':commands', 0)
if not head or ascii(head) ~= ascii(ARGV[1]) then return 0 end
call('LPOP', base .. ':commands')
return 1
