-- ffcompletion: removes what postgres.sql made, in the first schema of your search_path, and what it recorded with it.
--
-- Where the engine's own tables are found, or a table of jobs is attached, nothing is touched.
DO $uninstall$
DECLARE
    made regprocedure;
BEGIN
    -- Whoever else makes or removes them at this moment comes after us, and finds what we have left.
    PERFORM pg_advisory_xact_lock(hashtextextended('ffcompletion producers', 0));
    IF to_regclass('ff_completion_event') IS NULL THEN
        RAISE NOTICE 'nothing is installed here: nothing was changed';
        RETURN;
    END IF;
    IF obj_description(to_regclass('ff_completion_event'), 'pg_class') IS DISTINCT FROM 'ffcompletion producer' THEN
        RAISE NOTICE 'FlowFabric''s own tables are here: nothing was changed';
        RETURN;
    END IF;
    IF to_regclass('ff_attachment') IS NOT NULL THEN
        RAISE NOTICE 'tables of jobs are attached, detach them first: nothing was changed';
        RETURN;
    END IF;
    DROP TABLE ff_completion_event;
    DROP TABLE ff_exec_core;
    FOR made IN
        SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = quote_ident(current_schema())::regnamespace
        AND p.proname IN ('ff_flow_partition', 'ff_new_execution_id', 'ff_parse_execution_id', 'ff_submit_execution',
                          'ff_execution_facts', 'ff_emit_completion', 'ff_prune_completions', 'ff_announce_completions')
    LOOP
        EXECUTE format('DROP FUNCTION %s', made);
    END LOOP;
END $uninstall$;
