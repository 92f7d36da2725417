-- release: claimed, not sent. ARGV attempt owner; returns 0 when it is gone or has been sent
local attempt = read_attempt(ARGV[1])
if not attempt or attempt.owner ~= ARGV[2] or attempt.phase ~= 'CLAIMED' then return 0 end
release_attempt(ARGV[1], attempt)
return 1
