-- audit: who did what. ARGV now by action subject detail
-- It was done before: neither a full Redis, which refuses a script only at its first command, nor another program's
-- value under the key makes an error of that.
redis.pcall('XTRIM', base .. ':audit', 'MAXLEN', '~', '10000')
audit(unpack(ARGV))
return 1
