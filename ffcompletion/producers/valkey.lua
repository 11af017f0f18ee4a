#!lua name=ffcompletion

--[[
ffcompletion: the announcing side on Valkey (7.2 or later), for programs that have no FlowFabric.

Writes the same keys and the same message as the engine, in one atomic call. Install it with

    ffcompletion producers install valkey://…           (on a cluster: it goes to every primary)

then, where a piece of work finishes, with E = {fp:7}:550e8400-e29b-41d4-a716-446655440000 and its tag {fp:7}:

    FCALL ffcompletion_complete 5
        ff:exec:{fp:7}:E:core  ff:exec:{fp:7}:E:tags  ff:exec:{fp:7}:E:result
        ff:idx:{fp:7}:lane:default:terminal  ff:idx:{fp:7}:all_executions
        E  <flow id or "">  <namespace or "">  <lane>  <outcome>  <result or "">  [<tag> <value> …]

and, where it begins, so that it can be asked for and waited for, with the same keys:

    FCALL ffcompletion_submit 5 …  E  <flow id or "">  <namespace or "">  <lane>  [<tag> <value> …]

`ffcompletion.producers.completion_call(…)` and `submission_call(…)` build them. All keys share one slot. A sixth key,
ff:flow:{fp:7}:<flow id>:members, where the flow lies in the same partition, makes its members known. Keys and arguments
are checked against each other, and so is what the keys hold, before anything is written: it is all or nothing.

complete returns 1, or 0 if the execution had finished already (then nothing changes). An execution without a flow is
announced with the nil UUID as its flow. submit returns 1, or 0 if the execution is known as unfinished already; one that
had finished runs again. ffcompletion_replay (the core's key, or all five; argument: E, with all five also the lane) makes
a finished execution runnable again. What has finished is kept for RETENTION_MS (0: for ever).
ffcompletion_forget (the five keys; E, the lane, a time in ms, "terminal" or "unfinished") clears away what is older.
]]

local CHANNEL = 'ff:dag:completions'
local OUTCOMES = { success = 'completed', failed = 'failed', cancelled = 'cancelled', expired = 'expired', skipped = 'skipped' }
local NO_FLOW = '00000000-0000-0000-0000-000000000000'
local RETENTION_MS = 86400000
local X4 = ('%x'):rep(4)
local UUID = X4 .. X4 .. '%-' .. X4 .. '%-' .. X4 .. '%-' .. X4 .. '%-' .. X4 .. X4 .. X4
local TYPES = { 'hash', 'hash', 'string', 'zset', 'set', 'set' }

-- What is wrong with the keys, given what they are for; nil if nothing is.
local function fault(keys, id, flow, lane)
    local number = id:match('^{fp:(%d+)}:' .. UUID .. '$')
    if not number or #number > 3 or tonumber(number) > 255 or number ~= tostring(tonumber(number)) then
        return 'the execution id must be {fp:N}:<uuid> with N from 0 to 255'
    end
    if flow ~= '' and not flow:match('^' .. UUID .. '$') then
        return 'the flow id must be a hyphenated UUID, or empty'
    end
    if #lane < 1 or #lane > 64 or lane:find('[^\32-\126]') then
        return 'the lane must be 1 to 64 printable ASCII characters'
    end
    local tag = '{fp:' .. number .. '}'
    local execution, index = 'ff:exec:' .. tag .. ':' .. id, 'ff:idx:' .. tag
    local right = { execution .. ':core', execution .. ':tags', execution .. ':result',
        index .. ':lane:' .. lane .. ':terminal', index .. ':all_executions' }
    if flow ~= '' then
        right[6] = 'ff:flow:' .. tag .. ':' .. flow .. ':members'
    end
    if #keys > #right then
        return 'a sixth key is for the members of a flow'
    end
    for n = 1, #keys do
        if keys[n] ~= right[n] then
            return 'key ' .. n .. ' must be ' .. right[n]
        end
    end
    for n = 1, #keys do
        local kind = server.call('TYPE', keys[n]).ok
        if kind ~= 'none' and kind ~= TYPES[n] then
            return 'key ' .. n .. ' holds a ' .. kind .. ', not a ' .. TYPES[n]
        end
    end
    return nil
end

local function now_ms()
    local time = server.call('TIME')
    return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function text(number)
    return string.format('%.0f', number)
end

local function refused(what)
    return server.error_reply('ERR ' .. what)
end

-- What was said before holds, unless it is said anew.
local function known(core, field, given)
    return given ~= '' and given or server.call('HGET', core, field) or ''
end

-- What both record, and how it is found.
local function record(keys, id, flow, namespace, lane, tags, first)
    server.call('HSET', keys[1], 'execution_id', id, 'flow_id', flow, 'lane_id', lane)
    -- An execution of nobody's has none: to filters an empty one is a namespace like any other.
    if namespace ~= '' then
        server.call('HSET', keys[1], 'namespace', namespace)
    end
    server.call('HSETNX', keys[1], 'replay_count', '0')
    for n = first, #tags, 2 do
        server.call('HSET', keys[2], tags[n], tags[n + 1])
    end
    server.call('SADD', keys[5], id)
    if keys[6] then
        server.call('SADD', keys[6], id)
    end
end

local function complete(keys, args)
    if (#keys ~= 5 and #keys ~= 6) or #args < 6 or #args % 2 ~= 0 then
        return refused('5 or 6 keys and 6 arguments, then pairs of tag and value, are needed')
    end
    local id, flow, namespace, lane, outcome, value = args[1], args[2], args[3], args[4], args[5], args[6]
    local state = OUTCOMES[outcome]
    if not state then
        return refused('outcome must be success, failed, cancelled, expired or skipped')
    end
    local wrong = fault(keys, id, flow, lane)
    if wrong then
        return refused(wrong)
    end
    local core, result, terminal, all = keys[1], keys[3], keys[4], keys[5]
    if server.call('HGET', core, 'lifecycle_phase') == 'terminal' then
        return 0
    end
    flow, namespace = known(core, 'flow_id', flow), known(core, 'namespace', namespace)
    -- First of all, because a user may be without this right, and then nothing is to be written; nobody can look before
    -- the call has ended.
    local told = flow ~= '' and flow or NO_FLOW
    server.call('PUBLISH', CHANNEL, cjson.encode({ execution_id = id, flow_id = told, outcome = outcome }))
    local now = now_ms()
    record(keys, id, flow, namespace, lane, args, 7)
    server.call('HSET', core, 'lifecycle_phase', 'terminal', 'terminal_outcome', outcome, 'public_state', state,
        'completed_at', text(now))
    if value ~= '' then
        server.call('SET', result, value)
    end
    server.call('ZADD', terminal, text(now), id)
    if RETENTION_MS > 0 then
        for n = 1, 3 do
            server.call('PEXPIRE', keys[n], text(RETENTION_MS))
        end
        if keys[6] then
            server.call('PEXPIRE', keys[6], text(RETENTION_MS))
        end
        -- Each call clears away more than it adds, so the index never grows for ever.
        for _, old in ipairs(server.call('ZRANGEBYSCORE', terminal, '-inf', text(now - RETENTION_MS), 'LIMIT', '0', '10')) do
            server.call('ZREM', terminal, old)
            server.call('SREM', all, old)
        end
    end
    return 1
end

-- A finished execution runs again.
local function reopen(keys, phase)
    server.call('HSET', keys[1], 'lifecycle_phase', phase, 'terminal_outcome', 'none', 'public_state', 'waiting', 'completed_at', '')
    server.call('HINCRBY', keys[1], 'replay_count', 1)
    for n = 1, math.min(#keys, 3) do
        server.call('PERSIST', keys[n])
    end
end

local function submit(keys, args)
    if (#keys ~= 5 and #keys ~= 6) or #args < 4 or #args % 2 ~= 0 then
        return refused('5 or 6 keys and 4 arguments, then pairs of tag and value, are needed')
    end
    local id, flow, namespace, lane = args[1], args[2], args[3], args[4]
    local wrong = fault(keys, id, flow, lane)
    if wrong then
        return refused(wrong)
    end
    local phase = server.call('HGET', keys[1], 'lifecycle_phase')
    flow, namespace = known(keys[1], 'flow_id', flow), known(keys[1], 'namespace', namespace)
    record(keys, id, flow, namespace, lane, args, 5)
    if phase == 'terminal' then
        reopen(keys, 'submitted')
        server.call('DEL', keys[3])
        server.call('ZREM', keys[4], id)
        return 1
    end
    if phase then
        return 0
    end
    server.call('HSET', keys[1], 'lifecycle_phase', 'submitted', 'terminal_outcome', 'none', 'public_state', 'waiting',
        'created_at', text(now_ms()), 'completed_at', '')
    return 1
end

local function replay(keys, args)
    if (#keys ~= 1 or #args ~= 1) and (#keys ~= 5 or #args ~= 2) then
        return refused('1 key and the execution id, or 5 keys, the execution id and the lane, are needed')
    end
    local wrong = fault(keys, args[1], '', args[2] or 'default')
    if wrong then
        return refused(wrong)
    end
    if server.call('HGET', keys[1], 'lifecycle_phase') ~= 'terminal' then
        return 0
    end
    reopen(keys, 'runnable')
    return 1
end

local function forget(keys, args)
    if #keys ~= 5 or #args ~= 4 or not tonumber(args[3]) or (args[4] ~= 'terminal' and args[4] ~= 'unfinished') then
        return refused('5 keys, the execution id, the lane, a time in ms, and terminal or unfinished, are needed')
    end
    local wrong = fault(keys, args[1], '', args[2])
    if wrong then
        return refused(wrong)
    end
    local core = server.call('HMGET', keys[1], 'lifecycle_phase', 'completed_at', 'created_at')
    if core[1] then
        local terminal = core[1] == 'terminal'
        local at = tonumber(terminal and core[2] or core[3] or '')
        if terminal ~= (args[4] == 'terminal') or not at or at >= tonumber(args[3]) then
            return 0
        end
    end
    server.call('DEL', keys[1], keys[2], keys[3])
    server.call('ZREM', keys[4], args[1])
    server.call('SREM', keys[5], args[1])
    return 1
end

server.register_function('ffcompletion_complete', complete)
server.register_function('ffcompletion_submit', submit)
server.register_function('ffcompletion_replay', replay)
server.register_function('ffcompletion_forget', forget)
