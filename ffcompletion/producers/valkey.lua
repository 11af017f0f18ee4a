#!lua name=ffcompletion

--[[
ffcompletion: the announcing side on Valkey (7.2 or later), for programs that have no FlowFabric.

Writes the same keys and the same message as the engine, in one atomic call. Install it with

    ffcompletion producers install valkey://…           (on a cluster: it goes to every primary)

then, where a piece of work finishes, with E = {fp:7}:550e8400-e29b-41d4-a716-446655440000 and its tag {fp:7}:

    FCALL ffcompletion_complete 5
        ff:exec:{fp:7}:E:core  ff:exec:{fp:7}:E:tags  ff:exec:{fp:7}:E:result
        ff:idx:{fp:7}:lane:default:terminal  ff:idx:{fp:7}:all_executions
        E  <flow id or "">  <namespace>  <lane>  <outcome>  <result or "">  [<tag> <value> …]

All keys share one slot. Returns 1, or 0 if the execution had finished already (then nothing changes). An execution
without a flow is recorded but never published, as in the engine; readers find it by reconciling.
ffcompletion_replay (1 key: the core; argument: E) makes a finished execution runnable again.
]]

local CHANNEL = 'ff:dag:completions'
local OUTCOMES = { success = 'completed', failed = 'failed', cancelled = 'cancelled', expired = 'expired', skipped = 'skipped' }

local function complete(keys, args)
    if #keys ~= 5 or #args < 6 or #args % 2 ~= 0 then
        return server.error_reply('ERR 5 keys and 6 arguments, then pairs of tag and value, are needed')
    end
    local core, tags, result, terminal, all = keys[1], keys[2], keys[3], keys[4], keys[5]
    local id, flow, namespace, lane, outcome, value = args[1], args[2], args[3], args[4], args[5], args[6]
    local state = OUTCOMES[outcome]
    if not state then
        return server.error_reply('ERR outcome must be success, failed, cancelled, expired or skipped')
    end
    if server.call('HGET', core, 'lifecycle_phase') == 'terminal' then
        return 0
    end
    local time = server.call('TIME')
    local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
    server.call('HSET', core, 'execution_id', id, 'flow_id', flow, 'namespace', namespace, 'lane_id', lane,
        'lifecycle_phase', 'terminal', 'terminal_outcome', outcome, 'public_state', state, 'completed_at', now)
    server.call('HSETNX', core, 'replay_count', '0')
    for i = 7, #args, 2 do
        server.call('HSET', tags, args[i], args[i + 1])
    end
    if value ~= '' then
        server.call('SET', result, value)
    end
    server.call('SADD', all, id)
    server.call('ZADD', terminal, now, id)
    if flow ~= '' then
        server.call('PUBLISH', CHANNEL, cjson.encode({ execution_id = id, flow_id = flow, outcome = outcome }))
    end
    return 1
end

local function replay(keys, args)
    if server.call('HGET', keys[1], 'lifecycle_phase') ~= 'terminal' then
        return 0
    end
    server.call('HSET', keys[1], 'lifecycle_phase', 'runnable', 'terminal_outcome', 'none', 'public_state', 'waiting', 'completed_at', '')
    server.call('HINCRBY', keys[1], 'replay_count', 1)
    return 1
end

server.register_function('ffcompletion_complete', complete)
server.register_function('ffcompletion_replay', replay)
