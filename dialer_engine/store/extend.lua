-- extend: ARGV owner deadline attempt ...; returns the attempts that are another owner's now
local mine, lost = base .. ':daemon:' .. ARGV[1] .. ':live', {}
for i = 3, #ARGV do
  if call('ZSCORE', mine, ARGV[i]) then
    call('ZADD', mine, ARGV[2], ARGV[i])
  elseif call('EXISTS', attempt_key(ARGV[i])) == 1 then
    table.insert(lost, ARGV[i])
  end
end
return lost
