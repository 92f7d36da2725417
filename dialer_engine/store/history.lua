-- history: the calls to one number that have a result here, the latest first. ARGV identity offset count
-- Returns {how many, {campaign, id in its stream, ...}}
local identity, offset, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local found = {}
for _, entry in ipairs(call('LRANGE', calls_key(identity), 0, -1)) do
  local number, campaign, result = string.match(entry, '^(%S+) (%d+) (%d+%-%d+)$')
  if number == identity and not result_left(campaign, result) then table.insert(found, {campaign, result}) end
end
local page = {}
for i = #found - offset, math.max(1, #found - offset - count + 1), -1 do
  table.insert(page, found[i][1])
  table.insert(page, found[i][2])
end
return {#found, page}
