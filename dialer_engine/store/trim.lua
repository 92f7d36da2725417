-- trim: results that stand in an archive's file leave Redis. ARGV campaign through(the last id) owner
-- Returns how many, -1 when another daemon archives now. XTRIM first: a full Redis must be able to become emptier.
local id, through, owner = unpack(ARGV)
if call('GET', base .. ':lease:archive') ~= owner then return -1 end
local milliseconds, place = string.match(through, '^(%d+)-(%d+)$')
local archived = campaign_key(id, 'archived')
call('HLEN', archived)
local trimmed = call('XTRIM', campaign_key(id, 'results'), 'MINID', milliseconds .. '-' .. place + 1)
if trimmed > 0 then
  count(archived, 'by:' .. owner, trimmed)
  call('HSET', archived, 'through', through)
end
return trimmed
