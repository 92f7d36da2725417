-- stop: no new call anywhere, or the end of that. ARGV by now stop(1|0)
-- DEL first: a full Redis refuses a script only at its first command.
local by, now, stop = unpack(ARGV)
call('DEL', base .. ':stop')
if stop == '1' then call('SET', base .. ':stop', cjson.encode({by = by, at = now})) end
tell(now, 'stop', {stopped = stop == '1', by = by})
audit(now, by, stop == '1' and 'stop' or 'resume', 'everything', '')
wake('stop')
return 1
