-- unlist: a call list is gone, and what it leaves is to be freed. ARGV list, then the names as {dialer}:imports has them
-- SREM first, that a full Redis can become emptier.
call('SCARD', base .. ':imports')
call('SREM', base .. ':lists', ARGV[1])
for i = 2, #ARGV do call('SADD', base .. ':imports', ARGV[i]) end
return 1
