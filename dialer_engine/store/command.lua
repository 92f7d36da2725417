-- command: the whole table of spec section 2, as one compare-and-set.
-- ARGV campaign command by now request queued(text of the waiting command, or "")
--      lists("3.1,5.2") rows(in them) problem(why the definition cannot be used, or "")
-- Returns {"OK", state, run, message} | {"CONFLICT", state, allowed} | {"INVALID"} | {"MISSING"} | {"TAKEN"}
local id, command, by, now, request, queued, lists, rows, problem = unpack(ARGV)
local FROM = {
  start = {NEW = 1, COMPLETED = 1, REMOVED = 1},
  pause = {RUNNING = 1},
  unpause = {PAUSED = 1},
  reload = {RUNNING = 1, PAUSED = 1, INVALID = 1},
  remove = {RUNNING = 1, PAUSED = 1, COMPLETED = 1, REMOVED = 1, INVALID = 1},
}
local DONE = {start = 'started', pause = 'paused', unpause = 'unpaused', reload = 'reloaded', remove = 'removed'}
local KEPT_RUNS = 32  -- with what was counted of their parts, and the rows they refused
local key, run_key = campaign_key(id, 'state'), campaign_key(id, 'run')

local function take_queued()
  if queued ~= '' then call('LPOP', base .. ':commands') end
end

local function pin(list, generation)
  if call('HGET', run_key, 'generation:' .. list) == generation then return end
  call('HSET', run_key, 'generation:' .. list, generation, 'cursor:' .. list, 0)
end

local function pin_lists()
  call('HSET', run_key, 'lists', lists)
  for list, generation in string.gmatch(lists, '(%d+)%.(%d+)') do pin(list, generation) end
end

-- What stops calls, or frees, is possible on a full Redis, which refuses a script only at its first command.
local function even_if_full() call('HDEL', key, 'request') end

local EFFECT = {
  start = function()
    call('HINCRBY', key, 'run', 0)  -- is it a number?
    local place, run = call('INCR', base .. ':next:seen'), call('HINCRBY', key, 'run', 1)
    call('HSET', key, 'state', 'RUNNING', 'started_at', now)
    drop_parts(id, run - KEPT_RUNS)
    drop_waiting(id)
    call('DEL', run_key)
    call('HSET', run_key, 'layers', layer_for(tonumber(rows)), 'seen', place)
    pin_lists()
  end,
  pause = function()
    even_if_full()
    call('HSET', key, 'state', 'PAUSED')
  end,
  unpause = function() call('HSET', key, 'state', 'RUNNING') end,
  reload = function(now_is)
    call('HLEN', run_key)
    call('HSET', key, 'state', now_is.state == 'INVALID' and now_is.was or now_is.state)
    call('HDEL', key, 'reason')
    pin_lists()
  end,
  remove = function()
    even_if_full()
    call('HSET', key, 'state', 'REMOVED')
    call('HDEL', key, 'reason')
    drop_waiting(id)
  end,
}

if queued ~= '' and call('LINDEX', base .. ':commands', 0) ~= queued then return {'TAKEN'} end
if call('SISMEMBER', base .. ':campaigns', id) == 0 then
  take_queued()
  return {'MISSING'}
end
local now_is = state_of(id)
local message = 'Campaign successfully ' .. DONE[command]
if request ~= '' and now_is.request == request then return {'OK', now_is.state, now_is.run, message} end
if not FROM[command][now_is.state] then
  take_queued()
  local allowed = {}
  for _, name in ipairs({'start', 'pause', 'unpause', 'reload', 'remove'}) do
    if FROM[name][now_is.state] then table.insert(allowed, name) end
  end
  return {'CONFLICT', now_is.state, table.concat(allowed, ',')}
end
if problem ~= '' then
  invalidate(id, now_is, problem, now)
  take_queued()
  return {'INVALID'}
end
EFFECT[command](now_is)
call('HSET', key, 'request', request, 'changed_at', now, 'changed_by', by)
take_queued()
now_is = state_of(id)
audit(now, by, command, 'campaign ' .. id, now_is.state)
tell_state(now, id, by)
wake('campaign ' .. id)
return {'OK', now_is.state, now_is.run, message}
