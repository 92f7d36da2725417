-- Stands before every script of this folder. KEYS[1] is the prefix with its hash tag, "{dialer}" or, for the
-- scripts about one call list, "{dialer:list:3}"; every key a script touches begins with it (one slot).
-- House rule: look first, write last, and begin the writing with a command that needs memory, so that a full or
-- read-only Redis refuses the script before anything is half done. Behind the first writing nothing may fail, whatever
-- other programs have put under our keys: what is written there was looked at before, or is left out when it cannot
-- be written (redis.pcall).
local base = KEYS[1]
local call = redis.call

local function campaign_key(id, name) return base .. ':campaign:' .. id .. ':' .. name end
local function attempt_key(id) return base .. ':attempt:' .. id end

-- Bytes that are no UTF-8 were read as U+FFFD, so only the ASCII of another program's text is compared.
local function reads_as(text, read)
  return string.gsub(text, '[\128-\255]', '') == string.gsub(read, '[\128-\255]', '')
end

-- A user of Redis who may not publish has done all the same what he is told.
local function wake(what) redis.pcall('PUBLISH', base .. ':wake', what) end

-- For whoever follows what happens (store/events.py). The same fields for every kind: Redis keeps their names once.
-- Another program's value under this key harms nothing else.
local function tell(now, kind, facts)
  local _, text = pcall(function() return type(facts) == 'table' and cjson.encode(facts) or facts end)
  redis.pcall('XADD', base .. ':events', 'MAXLEN', '~', '20000', '*', 'kind', kind, 'at', now, 'facts', text)
end

local function tell_state(now, id, by)
  local state = call('HMGET', campaign_key(id, 'state'), 'state', 'run', 'reason')
  tell(now, 'state', {campaign = tonumber(id), state = state[1] or 'NEW', run = tonumber(state[2] or 0),
                      reason = state[3] or nil, by = by})
end

local EDITS = {create = 1, edit = 1, delete = 1, append = 1, ['strike out'] = 1, forbid = 1, allow = 1}
local EDITED = {campaign = 1, list = 1, ivr = 1, ["do-not-call"] = 1}  -- users and tokens are nobody else's business

-- Behind the first writing: what another program has put under the key keeps nobody from his work.
local function audit(now, by, action, subject, detail)
  redis.pcall('XADD', base .. ':audit', 'MAXLEN', '~', '10000', '*',
              'at', now, 'by', by, 'action', action, 'subject', subject, 'detail', detail)
  if EDITS[action] and EDITED[string.match(subject, '^[%a-]+')] then
    tell(now, 'edit', {by = by, action = action, subject = subject})
  end
end

local function state_of(id)
  local state = call('HMGET', campaign_key(id, 'state'), 'state', 'run', 'was', 'request')
  return {state = state[1] or 'NEW', run = state[2] or '0', was = state[3] or 'NEW', request = state[4]}
end

-- Why this run may not start a call, or nil.
local function stopped(id, run)
  if call('EXISTS', base .. ':stop') == 1 then return 'everything is stopped' end
  local now_is = state_of(id)
  if now_is.state ~= 'RUNNING' then return 'the campaign is ' .. now_is.state end
  if now_is.run ~= run then return 'run ' .. run .. ' is over' end
end

-- Into INVALID, keeping run, place and the state before; returns 1 when the state changed.
-- HDEL first: on a full Redis, which refuses a script only at its first command, it must keep nobody else waiting.
local function invalidate(id, now_is, reason, now)
  local already = now_is.state == 'INVALID'
  call('HDEL', campaign_key(id, 'state'), 'reason')
  call('HSET', campaign_key(id, 'state'), 'reason', reason, 'state', 'INVALID', 'changed_at', now,
       'was', already and now_is.was or now_is.state)
  if already then return 0 end
  tell_state(now, id)
  wake('campaign ' .. id)
  return 1
end

-- A contact of a run that has ended never waits again. What is INVALID now goes on if it did before.
local function run_goes_on(id, run)
  local now_is = state_of(id)
  local state = now_is.state == 'INVALID' and now_is.was or now_is.state
  local ended = state == 'REMOVED' or state == 'COMPLETED' or state == 'NEW'
  return now_is.run == run and not ended
end

-- The reason on a do-not-call list, or nil. What cannot be understood forbids.
local function forbidden(id, identity, now)
  for _, scope in ipairs({'all', 'campaign:' .. id}) do
    local entry = call('HGET', base .. ':dnc:' .. scope, identity)
    if entry then
      local readable, value = pcall(cjson.decode, entry)
      if not readable or type(value) ~= 'table' then return 'do-not-call' end
      local reason = type(value.reason) == 'string' and value.reason ~= '' and value.reason or 'do-not-call'
      local over = type(value['until']) == 'number' and value['until'] <= tonumber(now)
      if not over then return reason end
    end
  end
end

-- nil: there is none. What another program has taken out of it is empty.
local function read_attempt(id)
  local f = call('HMGET', attempt_key(id), 'campaign', 'run', 'member', 'from', 'score', 'trunk', 'owner', 'identity',
                 'phase', 'number', 'attributes', 'until', 'forbidden', 'disposition')
  if not f[1] then return nil end
  for i = 2, 12 do f[i] = f[i] or '' end
  return {campaign = f[1], run = f[2], member = f[3], from = f[4], score = f[5], trunk = f[6], owner = f[7],
          identity = f[8], phase = f[9], number = f[10], attributes = f[11], period_end = f[12],
          forbidden = f[13], disposition = f[14]}
end

-- Behind the first writing: a key of another type holds no trace of the attempt, and keeps no other from losing it.
local function forget_attempt(id, attempt)
  local drop, numbers = redis.pcall, base .. ':live-numbers'
  drop('SREM', campaign_key(attempt.campaign, 'live'), id)
  drop('SREM', campaign_key(attempt.campaign, 'served'), id)
  drop('SREM', base .. ':trunk:' .. attempt.trunk .. ':live', id)
  drop('ZREM', base .. ':daemon:' .. attempt.owner .. ':live', id)
  if redis.pcall('HGET', numbers, attempt.identity) == id then drop('HDEL', numbers, attempt.identity) end
  drop('DEL', attempt_key(id))
end

-- Behind the first writing: a count that another program has spoilt stays so.
local function count(key, field, by) redis.pcall('HINCRBY', key, field, by) end

local function close_contact(id, member)
  local list = string.match(member, '^%d+%.%d+')
  if not list then return end  -- no contact of ours
  count(campaign_key(id, 'run'), 'closed', 1)
  local added = string.match(member, '^0%.%d+%.(%d+)|')
  if added then redis.pcall('HDEL', campaign_key(id, 'added'), added) end
  count(campaign_key(id, 'run'), 'open:' .. list, -1)
end

-- Among the fresh or the due, where the attempt was claimed from.
local function put_back(attempt, member)
  local from, score = attempt.from == 'fresh' and 'fresh' or 'due', tonumber(attempt.score)
  if score ~= score then score = nil end
  call('ZADD', campaign_key(attempt.campaign, from), score or 0, member)
end

-- Claimed and never sent: due again exactly where it was.
local function release_attempt(id, attempt)
  if run_goes_on(attempt.campaign, attempt.run) then put_back(attempt, attempt.member) end
  forget_attempt(id, attempt)
end

-- Numbers seen, in sets of integers so small that Redis keeps each as a sorted array of 8 bytes a number.
-- `layers` holds the bucket counts, "3,24": when the last layer is full a wider one is begun, because a number
-- cannot move.
local BUCKET = 400  -- of set-max-intset-entries, 512
local WIDER = 8  -- times the layer before

local function layer_for(numbers) return math.max(1, math.ceil(numbers / BUCKET)) end

local function layers_in(text)
  local layers = {}
  for buckets in string.gmatch(text, '%d+') do table.insert(layers, tonumber(buckets)) end
  return layers
end

local function layers_of(hash, field) return layers_in(call('HGET', hash, field) or '1') end

-- Multiplication modulo a prime: numbers given out in steps spread over any number of buckets. All is exact in
-- doubles: 14 digits are below 2^53, and so is the product.
local function bucket_of(integer, buckets)
  local folded = math.fmod(tonumber(string.sub(integer, -14)), 2147483647)
  return math.fmod(math.fmod(folded * 3979739, 2147483647), buckets)
end

-- The set where this number is or would be added, what it is called there, and whether it is there.
local function seen(prefix, layers, identity)
  local plus, digits = string.match(identity, '^(%+?)(%d+)$')
  if not digits or #digits > 17 then
    return prefix .. ':other', identity, call('SISMEMBER', prefix .. ':other', identity) == 1
  end
  local integer = (plus == '' and '1' or '2') .. digits
  local key
  for layer, buckets in ipairs(layers) do
    key = prefix .. string.format(':%d:%d', layer, bucket_of(integer, buckets))
    if call('SISMEMBER', key, integer) == 1 then return key, integer, true end
  end
  return key, integer, false
end

-- Called before `coming` numbers are looked at. Every layer is one more place to look for a number, so they widen
-- fast; what a wide one costs while it is nearly empty, about a byte a number, is less than a look. Returns what is to
-- be written by `keep_room`, if anything.
local function make_room(hash, suffix, layers, coming)
  local last = layers[#layers] or 1
  local size = tonumber(call('HGET', hash, 'layered' .. suffix) or 0) or 0
  if #layers > 0 and size + coming <= last * BUCKET then return end
  table.insert(layers, layer_for(math.max(last * WIDER * BUCKET, coming)))
  return {hash, 'layers' .. suffix, table.concat(layers, ','), 'layered' .. suffix, 0}
end

local function keep_room(room)
  if room then call('HSET', unpack(room)) end
end

-- Where results are noted under what they are asked for by: `calls` under the number, `talked`, those of calls that
-- reached an agent, under the attempt. "NAME CAMPAIGN ID", oldest first, some names together, because a key of its
-- own for each would cost more than its notes.
local NOTED_IN = 16384
local function notes_key(kind, name)
  local digits = string.gsub(name, '%D', '')
  return base .. ':' .. kind .. ':' .. string.format('%d', bucket_of('0' .. digits, NOTED_IN))
end

-- Is this id of a stream that one (false: there is none), or before it?
local function is_through(result, through)
  local last, last_place = string.match(through or '', '^(%d+)-(%d+)$')
  if not last then return false end
  local at, place = string.match(result, '^(%d+)-(%d+)$')
  at, last = tonumber(at), tonumber(last)
  return at < last or at == last and tonumber(place) <= tonumber(last_place)
end

-- Has this result left Redis, for an archive or with its campaign?
local function result_left(campaign, result)
  if redis.pcall('SISMEMBER', base .. ':campaigns', campaign) == 0 then return true end
  local through = redis.pcall('HGET', campaign_key(campaign, 'archived'), 'through')
  return type(through) == 'string' and is_through(result, through)
end

-- Only what is a number, or an attempt, can be asked for. Notes of what has left go, a little faster than others come.
-- Another program's value under this key, or among the notes, harms nothing else.
local function note(kind, name, campaign, result)
  if not string.find(name, '^%+?[%w_-]+$') then return end
  local notes = notes_key(kind, name)
  redis.pcall('RPUSH', notes, name .. ' ' .. campaign .. ' ' .. result)
  for _ = 1, 2 do
    local oldest = redis.pcall('LINDEX', notes, 0)
    local whose, which = string.match(type(oldest) == 'string' and oldest or '', '^%S+ (%d+) (%d+%-%d+)$')
    if whose and not result_left(whose, which) then break end
    redis.pcall('LPOP', notes)
  end
end

-- {{campaign, id in its stream} ...} of those that are still here, oldest first.
local function noted(kind, name)
  local found = {}
  for _, entry in ipairs(call('LRANGE', notes_key(kind, name), 0, -1)) do
    local whose, campaign, result = string.match(entry, '^(%S+) (%d+) (%d+%-%d+)$')
    if whose == name and not result_left(campaign, result) then table.insert(found, {campaign, result}) end
  end
  return found
end

-- One list: an import's key, and rows to the end of a generation. `rows` is identity, row, identity, row ... from
-- `first` on; returns how many were written and how many were repeats.
local function import_key(number) return base .. ':import:' .. number end

local function add_rows(generation, rows, first)
  local meta, prefix = base .. ':meta', base .. ':seen:' .. generation
  local layers = layers_of(meta, 'layers:' .. generation)
  local written, repeats = 0, 0
  call('LLEN', base .. ':rows:' .. generation)
  keep_room(make_room(meta, ':' .. generation, layers, (#rows - first + 1) / 2))
  for i = first, #rows, 2 do
    local set, name, known = seen(prefix, layers, rows[i])
    if known then
      repeats = repeats + 1
    else
      call('RPUSH', base .. ':rows:' .. generation, rows[i + 1])
      call('SADD', set, name)
      written = written + 1
    end
  end
  if written > 0 then count(meta, 'layered:' .. generation, written) end
  return written, repeats
end

-- Free at most `count` of the sets, the last ones first: all of a long list at once would hold up everybody.
-- Returns the layers that are left, "" when all is gone.
local function drop_seen(prefix, layers, count)
  while count > 0 and #layers > 0 do
    local layer, buckets = #layers, layers[#layers]
    local left = math.max(0, buckets - count)
    for bucket = left, buckets - 1 do call('UNLINK', prefix .. string.format(':%d:%d', layer, bucket)) end
    count = count - (buckets - left)
    layers[layer] = left > 0 and left or nil
  end
  if #layers == 0 then call('UNLINK', prefix .. ':other') end
  return table.concat(layers, ',')
end

-- Where the numbers of the current run stand. Each run has a place of its own: an ended one's is swept later.
local function seen_of(id, place) return campaign_key(id, 'seen:' .. place) end

-- The waiting contacts of a run that ends; its counts and its live calls stay. Behind the first writing: what another
-- program has put under these keys does not stay.
local function drop_waiting(id)
  local run = redis.pcall('HMGET', campaign_key(id, 'run'), 'seen', 'layers')
  if run[1] then redis.pcall('RPUSH', base .. ':unwanted', seen_of(id, run[1]) .. ' ' .. (run[2] or '1')) end
  call('UNLINK', campaign_key(id, 'fresh'), campaign_key(id, 'due'), campaign_key(id, 'added'))
end

-- What was counted of the parts of a run, and the rows it refused.
local function drop_parts(id, run)
  local stats = campaign_key(id, 'stats:' .. run)
  call('UNLINK', stats .. ':hours', stats .. ':lists', stats .. ':agents', campaign_key(id, 'refused:' .. run))
end

-- What a list is now, for whoever wants to change just that (records.ListInfo.mark).
local function mark_of_list()
  local meta = base .. ':meta'
  local generation = call('HGET', meta, 'generation') or '1'
  local struck = call('HGET', meta, 'struck:' .. generation) or '0'
  return table.concat({generation, call('LLEN', base .. ':rows:' .. generation), struck,
                       call('HGET', meta, 'name') or ''}, '.')
end
