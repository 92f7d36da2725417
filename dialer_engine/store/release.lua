-- release: claimed, and its driver knows that nothing was sent to the PBX, whatever stands here: the reply of
-- mark_sent may have been lost. ARGV attempt owner; returns 0 when it is gone
local attempt = read_attempt(ARGV[1])
if not attempt or attempt.owner ~= ARGV[2] then return 0 end
release_attempt(ARGV[1], attempt)
return 1
