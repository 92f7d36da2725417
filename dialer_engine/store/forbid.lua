-- forbid: many numbers onto a do-not-call list, all of them or none. They are put by, `commit` makes them count, and
-- then they are moved in slices by whoever comes by; who dies before that has forbidden nobody.
-- ARGV verb(stage|commit|move|drop) token ...; an import given up answers -1
local verb, token = ARGV[1], ARGV[2]
local ALIVE_SECONDS = 600
local register, coming = base .. ':forbidding', base .. ':forbidding:' .. token
local alive = coming .. ':alive'

local VERBS = {
  stage = function()  -- number entry ...
    if call('HEXISTS', register, token) == 0 then
      if call('EXISTS', coming) == 1 or ARGV[3] ~= 'first' then return -1 end
      call('HSET', register, token, '')
    end
    call('SET', alive, '', 'EX', ALIVE_SECONDS)
    for i = 4, #ARGV do call('RPUSH', coming, ARGV[i]) end
    return 0
  end,
  commit = function()  -- scope(all|campaign:ID)
    if call('HEXISTS', register, token) == 0 then return -1 end
    call('HSET', register, token, ARGV[3])
    return 0
  end,
  move = function()  -- count; returns {left, new, known}
    local scope = call('HGET', register, token)
    if not scope or scope == '' then return {0, 0, 0} end
    call('HDEL', register, '')  -- needs no memory, and neither does what moves: a full Redis, too, lets it be finished
    local some = call('LRANGE', coming, 0, 2 * ARGV[3] - 1)
    local new = #some > 0 and call('HSET', base .. ':dnc:' .. scope, unpack(some)) or 0
    call('LTRIM', coming, #some, -1)
    local left = call('LLEN', coming) / 2
    if left == 0 then
      call('HDEL', register, token)
      call('DEL', alive)
    end
    return {left, new, #some / 2 - new}
  end,
  drop = function()  -- whether or not it is alive(1|0); what was committed meanwhile stays
    local scope = call('HGET', register, token)
    if scope and scope ~= '' then return 0 end
    if ARGV[3] == '0' and call('EXISTS', alive) == 1 then return 0 end
    call('HDEL', register, token)
    call('UNLINK', coming, alive)
    return 1
  end,
}
return VERBS[verb]()
