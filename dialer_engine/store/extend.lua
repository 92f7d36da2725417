-- extend: ARGV owner deadline attempt ...; returns the attempts that are not (or no longer) this owner's
local mine, lost = base .. ':daemon:' .. ARGV[1] .. ':live', {}
for i = 3, #ARGV do
  if call('ZSCORE', mine, ARGV[i]) then
    call('ZADD', mine, ARGV[2], ARGV[i])
  else
    table.insert(lost, ARGV[i])
  end
end
return lost
