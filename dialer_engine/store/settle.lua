-- settle: the result is written and the contact let go, once.
-- ARGV attempt owner|"" next(REDIAL|RETURN|CLOSE) member at now counters counter ..., then field value ... of the result
-- Returns 0 when it was done before, or is no more for this owner to do.
local id, owner, next_is, member, at, now, counters = unpack(ARGV, 1, 7)
local attempt = read_attempt(id)
if not attempt or (owner ~= '' and attempt.owner ~= owner) then return 0 end
local goes_on = run_goes_on(attempt.campaign, attempt.run)
local redials = goes_on and next_is == 'REDIAL'

-- Whatever fails after the result is written (a key of another program's type) is tried again without a second one.
if not attempt.result then
  local result = call('XADD', campaign_key(attempt.campaign, 'results'), '*', 'attempt', id, 'run', attempt.run,
       'member', attempt.member, 'number', attempt.number, 'attributes', attempt.attributes,
       'redial', redials and at or '', 'at', now, unpack(ARGV, 8 + counters))
  call('HSET', attempt_key(id), 'result', result)
  note_call(attempt.identity, attempt.campaign, result)
  local stats = campaign_key(attempt.campaign, 'stats:' .. attempt.run)
  for i = 8, 7 + counters do redis.pcall('HINCRBY', stats, ARGV[i], 1) end
end
if redials then
  call('ZADD', campaign_key(attempt.campaign, 'due'), at, member)
elseif goes_on and next_is == 'RETURN' then
  call('ZADD', campaign_key(attempt.campaign, attempt.from), attempt.score, member)
elseif state_of(attempt.campaign).run == attempt.run then
  close_contact(attempt.campaign, attempt.member)
end
forget_attempt(id, attempt)
local ext_status
for i = 8 + counters, #ARGV, 2 do
  if ARGV[i] == 'extStatus' and ARGV[i + 1] ~= '' then ext_status = ARGV[i + 1] end
end
tell(now, 'result', {campaign = tonumber(attempt.campaign), run = tonumber(attempt.run), attempt = id,
                     number = attempt.number, status = ARGV[8], extStatus = ext_status,
                     redialAt = redials and at or nil})
return 1
