-- accept: rows that were read become fresh contacts; guarded by the place they were read from.
-- ARGV campaign run list generation cursor newCursor refusedCount refused(JSON) ..., then per row: row identity
-- Returns {stale, cursor, accepted, repeats}
local id, run, list, generation, cursor, new_cursor = unpack(ARGV, 1, 6)
local KEPT_REFUSALS = 1000
local key, fresh, refusals = campaign_key(id, 'run'), campaign_key(id, 'fresh'), campaign_key(id, 'refused:' .. run)
local at = call('HMGET', key, 'generation:' .. list, 'cursor:' .. list, 'sequence', 'seen')
local now_is = state_of(id)
local there = now_is.state == 'RUNNING' and now_is.run == run and at[1] == generation and at[2] == cursor
if not there then return {1, tonumber(at[2]) or 0, 0, 0} end

local refused_count = tonumber(ARGV[7])
local prefix, layers = seen_of(id, at[4] or ''), layers_of(key, 'layers')
local before = tonumber(at[3]) or 0
local room = make_room(key, '', layers, (#ARGV - 7 - refused_count) / 2)
local contacts, repeats, here = {}, 0, {}
for i = 8 + refused_count, #ARGV, 2 do
  local set, name, known = seen(prefix, layers, ARGV[i + 1])
  local place = set .. ' ' .. name
  if known or here[place] then
    repeats = repeats + 1
  else
    here[place] = true
    table.insert(contacts, {set, name, ARGV[i]})
  end
end
call('ZCARD', fresh)
call('LLEN', refusals)

call('HSET', key, 'cursor:' .. list, new_cursor, 'sequence', before + #contacts)
keep_room(room)
for n, one in ipairs(contacts) do
  call('SADD', one[1], one[2])
  call('ZADD', fresh, before + n, list .. '.' .. generation .. '.' .. one[3] .. '|0|0|')
end
for i = 8, 7 + refused_count do call('RPUSH', refusals, ARGV[i]) end
call('LTRIM', refusals, 0, KEPT_REFUSALS - 1)
count(key, 'read', #contacts + repeats + refused_count)
count(key, 'refused', refused_count)
count(key, 'repeats', repeats)
count(key, 'open:' .. list .. '.' .. generation, #contacts)
count(key, 'layered', #contacts)
return {0, tonumber(new_cursor), #contacts, repeats}
