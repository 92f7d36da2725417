-- signing_key: the key to sign with; a young one is added when the newest has grown old, the oldest are forgotten.
-- ARGV now id secret sign_seconds keep_seconds. Returns {id, secret}
local now, id, secret, sign_seconds, keep_seconds = unpack(ARGV)
local key = base .. ':signing-keys'
local newest, born = nil, 0
local old = {}
local found = call('HGETALL', key)
for i = 1, #found, 2 do
  local at, text = string.match(found[i + 1], '^(%S+) (%S+)$')
  at = tonumber(at)
  if not at or at < now - keep_seconds then
    table.insert(old, found[i])
  elseif at > born then
    newest, born = {found[i], text}, at
  end
end
if not newest or born < now - sign_seconds then
  call('HSET', key, id, now .. ' ' .. secret)
  newest = {id, secret}
end
for _, one in ipairs(old) do call('HDEL', key, one) end
return newest
