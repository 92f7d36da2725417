-- peek: who is next. ARGV campaign run fresh due now; returns {{due member ...}, {fresh member ...}, nextDueAt|""}
local id, run, fresh, due, now = unpack(ARGV)
if state_of(id).run ~= run then return {{}, {}, ''} end
local next_due = call('ZRANGE', campaign_key(id, 'due'), 0, 0, 'WITHSCORES')
return {call('ZRANGEBYSCORE', campaign_key(id, 'due'), '-inf', now, 'LIMIT', 0, due),
        call('ZRANGEBYSCORE', campaign_key(id, 'fresh'), '-inf', '+inf', 'LIMIT', 0, fresh), next_due[2] or ''}
