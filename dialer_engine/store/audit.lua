-- audit: who did what. ARGV now by action subject detail
write_audit(call, unpack(ARGV))
return 1
