-- guess: may this log-in be tried now? It is counted as a guess before it is tried, so that a thousand at once are
-- counted too, and given back when it was none. ARGV verb(try|back|right) now known_seconds user address
--   then for each of pair, address, user: how many at once, seconds for one more
-- Returns {how many seconds to wait, as a text, known 1|0}; 0 seconds: go on. Whoever has logged in as this user from
-- this address lately is known, and measured by that pair alone: strangers' guesses do not shut him out.
local verb, now, known_seconds, user, address = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local MOST_KNOWN = 32
local known = base .. ':known:' .. user
local buckets = {{base .. ':guesses:pair:' .. user .. ' ' .. address, tonumber(ARGV[6]), tonumber(ARGV[7])}}
local is_known = tonumber(call('ZSCORE', known, address) or 0) >= now - known_seconds and 1 or 0
if is_known == 0 then
  table.insert(buckets, {base .. ':guesses:address:' .. address, tonumber(ARGV[8]), tonumber(ARGV[9])})
  table.insert(buckets, {base .. ':guesses:user:' .. user, tonumber(ARGV[10]), tonumber(ARGV[11])})
end

-- Each bucket is one instant: when all of its guesses are forgotten.
local function forgotten_at(key) return math.max(now, tonumber(call('GET', key)) or 0) end
local function put(key, at)
  if at > now then call('SET', key, at, 'EX', math.ceil(at - now)) else call('DEL', key) end
end

if verb == 'try' then
  local wait = 0
  for _, bucket in ipairs(buckets) do
    local key, at_once, seconds = unpack(bucket)
    wait = math.max(wait, forgotten_at(key) - now - (at_once - 1) * seconds)
  end
  if wait > 0 then return {tostring(wait), is_known} end
  for _, bucket in ipairs(buckets) do put(bucket[1], forgotten_at(bucket[1]) + bucket[3]) end
  return {'0', is_known}
end
for _, bucket in ipairs(buckets) do put(bucket[1], forgotten_at(bucket[1]) - bucket[3]) end
if verb == 'right' then
  call('ZADD', known, now, address)
  call('ZREMRANGEBYRANK', known, 0, -MOST_KNOWN - 1)
  call('EXPIRE', known, known_seconds)
end
return {'0', is_known}
