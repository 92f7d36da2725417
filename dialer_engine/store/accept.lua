-- accept: rows that were read become fresh contacts; guarded by the place they were read from.
-- ARGV campaign run list generation cursor newCursor refusedCount refused(JSON) ..., then per row: row identity
-- Returns {stale, cursor, accepted, repeats}
local id, run, list, generation, cursor, new_cursor = unpack(ARGV, 1, 6)
local KEPT_REFUSALS = 1000
local key = campaign_key(id, 'run')
local at = call('HMGET', key, 'generation:' .. list, 'cursor:' .. list, 'sequence', 'seen')
local now_is = state_of(id)
local there = now_is.state == 'RUNNING' and now_is.run == run and at[1] == generation and at[2] == cursor
if not there then return {1, tonumber(at[2] or 0), 0, 0} end

local refused_count = tonumber(ARGV[7])
local prefix, layers = seen_of(id, at[4]), layers_of(key, 'layers')
local before = tonumber(at[3] or 0)
local sequence, repeats = before, 0
call('HSET', key, 'cursor:' .. list, new_cursor)
make_room(key, '', layers, (#ARGV - 7 - refused_count) / 2)
for i = 8 + refused_count, #ARGV, 2 do
  local set, name, known = seen(prefix, layers, ARGV[i + 1])
  if known then
    repeats = repeats + 1
  else
    sequence = sequence + 1
    call('SADD', set, name)
    call('ZADD', campaign_key(id, 'fresh'), sequence, list .. '.' .. generation .. '.' .. ARGV[i] .. '|0|0|')
  end
end
for i = 8, 7 + refused_count do call('RPUSH', campaign_key(id, 'refused:' .. run), ARGV[i]) end
call('LTRIM', campaign_key(id, 'refused:' .. run), 0, KEPT_REFUSALS - 1)
local accepted = sequence - before
call('HSET', key, 'sequence', sequence)
call('HINCRBY', key, 'read', accepted + repeats + refused_count)
call('HINCRBY', key, 'refused', refused_count)
call('HINCRBY', key, 'repeats', repeats)
call('HINCRBY', key, 'open:' .. list .. '.' .. generation, accepted)
call('HINCRBY', key, 'layered', accepted)
return {0, tonumber(new_cursor), accepted, repeats}
