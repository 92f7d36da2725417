-- audit: who did what. ARGV now by action subject detail
audit(unpack(ARGV))
return 1
