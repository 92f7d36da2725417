-- progress: what must survive a crash. ARGV attempt field value ...; returns 0 when the attempt is settled
if call('EXISTS', attempt_key(ARGV[1])) == 0 then return 0 end
call('HSET', attempt_key(ARGV[1]), unpack(ARGV, 2))
return 1
