-- close: waiting contacts whose rows were struck out. ARGV campaign run member ...; returns how many were closed
local id, run = ARGV[1], ARGV[2]
if state_of(id).run ~= run then return 0 end
for _, name in ipairs({'fresh', 'due'}) do call('ZCARD', campaign_key(id, name)) end
local closed = 0
for i = 3, #ARGV do
  local waited = call('ZREM', campaign_key(id, 'fresh'), ARGV[i]) + call('ZREM', campaign_key(id, 'due'), ARGV[i])
  if waited > 0 then
    close_contact(id, ARGV[i])
    closed = closed + 1
  end
end
return closed
