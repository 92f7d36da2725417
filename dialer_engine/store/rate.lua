-- rate: how many results came since an instant, looking at no more than `most` of them.
-- ARGV campaign since(milliseconds) most; returns {how many, milliseconds of the oldest looked at|""}
local key = campaign_key(ARGV[1], 'results')
local found = call('XREVRANGE', key, '+', ARGV[2], 'COUNT', ARGV[3])
local oldest = #found > 0 and string.match(found[#found][1], '^%d+') or ''
return {#found, oldest}
