-- snapshot: everything a pass looks at. ARGV now campaign(that one alone)|"" trunk ...
-- Returns {stopped, commands, {trunk live ...}, {list ...}, {ivr ...},
--          {campaign, definition, {state field, value ...}, {run field, value ...}, fresh, due, dueNow, nextDueAt|"", live, served} ...}
-- What another program left under these keys that is of another type counts as empty: it harms itself alone.
local now, only, trunks, campaigns = ARGV[1], ARGV[2], {}, {}
local LONGEST_DEFINITION = 65536

local function read(empty, ...)
  local reply = redis.pcall(...)
  return type(reply) == 'table' and reply.err and empty or reply
end

for i = 3, #ARGV do table.insert(trunks, read(0, 'SCARD', base .. ':trunk:' .. ARGV[i] .. ':live')) end
local function campaign(id)
  local due = campaign_key(id, 'due')
  local waiting = read(0, 'ZCARD', due)
  local next_due = waiting > 0 and call('ZRANGE', due, 0, 0, 'WITHSCORES')[2] or ''
  return {
    id, read('', 'GETRANGE', campaign_key(id, 'definition'), 0, LONGEST_DEFINITION),
    read({}, 'HGETALL', campaign_key(id, 'state')),
    read({}, 'HGETALL', campaign_key(id, 'run')), read(0, 'ZCARD', campaign_key(id, 'fresh')), waiting,
    waiting > 0 and call('ZCOUNT', due, '-inf', now) or 0, next_due, read(0, 'SCARD', campaign_key(id, 'live')),
    read(0, 'SCARD', campaign_key(id, 'served'))}
end

local function asked_for()
  if only == '' then return call('SMEMBERS', base .. ':campaigns') end
  return call('SISMEMBER', base .. ':campaigns', only) == 1 and {only} or {}
end

for _, id in ipairs(asked_for()) do
  if #id < 16 and string.match(id, '^[1-9]%d*$') then table.insert(campaigns, campaign(id)) end
end
return {call('EXISTS', base .. ':stop'), call('LLEN', base .. ':commands'), trunks,
        call('SMEMBERS', base .. ':lists'), call('SMEMBERS', base .. ':ivrs'), campaigns}
