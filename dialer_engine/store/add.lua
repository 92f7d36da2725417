-- add: one call into the run under way: a contact of no list (0.RUN.NUMBER), due at an instant, before new numbers.
-- ARGV campaign row at now token("": it cannot be asked for twice)
-- Returns {"OK", number} | {"MISSING"} | {"CONFLICT", state}
local id, row, at, now, token = unpack(ARGV)
local KEPT_SECONDS = 86400
local run_key, done = campaign_key(id, 'run'), campaign_key(id, 'asked:' .. token)
if call('SISMEMBER', base .. ':campaigns', id) == 0 then return {'MISSING'} end
local before = token ~= '' and tonumber(call('GET', done))
if before then return {'OK', before} end
local now_is = state_of(id)
if not run_goes_on(id, now_is.run) then return {'CONFLICT', now_is.state} end

local number = (tonumber(call('HGET', run_key, 'added')) or 0) + 1
local list = '0.' .. now_is.run
call('ZCARD', campaign_key(id, 'due'))
call('HSET', campaign_key(id, 'added'), number, row)
call('ZADD', campaign_key(id, 'due'), tonumber(at) > tonumber(now) and at or now, list .. '.' .. number .. '|0|0|')
call('HSET', run_key, 'added', number)
count(run_key, 'read', 1)
count(run_key, 'open:' .. list, 1)
if token ~= '' then call('SET', done, number, 'EX', KEPT_SECONDS) end
wake('campaign ' .. id)
return {'OK', number}
