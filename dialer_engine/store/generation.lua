-- generation: a number for a new generation of a list (ARGV ""), or that generation becomes the current one
-- (ARGV generation name|""). Returns the number; 0 when a later one has become current meanwhile.
local meta = base .. ':meta'
local now_is = call('HMGET', meta, 'generation', 'allotted')
local current, allotted = tonumber(now_is[1] or 1), tonumber(now_is[2] or 0)
if ARGV[1] == '' then
  local number = math.max(current, allotted) + 1
  call('HSET', meta, 'allotted', number)
  return number
end
if tonumber(ARGV[1]) < current then return 0 end
call('HSET', meta, 'generation', ARGV[1])
if ARGV[2] ~= '' then call('HSET', meta, 'name', ARGV[2]) end
return tonumber(ARGV[1])
