-- stop: no new call anywhere, or the end of that. ARGV by now stop(1|0)
local by, now, stop = unpack(ARGV)
if stop == '1' then
  call('SET', base .. ':stop', cjson.encode({by = by, at = now}))
else
  call('DEL', base .. ':stop')
end
tell(now, 'stop', {stopped = stop == '1', by = by})
audit(now, by, stop == '1' and 'stop' or 'resume', 'everything', '')
wake('stop')
return 1
