-- event: something a daemon has seen. ARGV now kind facts(JSON)
tell(ARGV[1], ARGV[2], ARGV[3])
return 1
