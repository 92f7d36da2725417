-- history: the calls to one number that have a result here, the latest first. ARGV identity offset count
-- Returns {how many, {campaign, id in its stream, ...}}
local identity, offset, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local found, page = noted('calls', identity), {}
for i = #found - offset, math.max(1, #found - offset - count + 1), -1 do
  table.insert(page, found[i][1])
  table.insert(page, found[i][2])
end
return {#found, page}
