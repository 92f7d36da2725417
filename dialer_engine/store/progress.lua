-- progress: what must survive a crash. ARGV attempt owner|"" field value ...
-- Returns GONE when the attempt is settled or lost, OTHER when it is another daemon's: what he has recorded since
-- must stand. Whoever has reached an agent counts as served from then on.
local id = ARGV[1]
local attempt = call('HMGET', attempt_key(id), 'owner', 'campaign')
if not attempt[1] then return 'GONE' end
if ARGV[2] ~= '' and attempt[1] ~= ARGV[2] then return 'OTHER' end
call('HSET', attempt_key(id), unpack(ARGV, 3))
for i = 3, #ARGV, 2 do
  if ARGV[i] == 'phase' and ARGV[i + 1] == 'CONNECTED' and attempt[2] then
    redis.pcall('SADD', campaign_key(attempt[2], 'served'), id)
  end
end
return 'OK'
