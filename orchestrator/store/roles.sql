-- Database roles: what is there, and who was granted what.

-- name: lock
-- Serialises grants, which otherwise meet on the same rows of the catalog.
lock table orchestrator.grantee in share row exclusive mode;

-- name: facts
-- What the statements depend on: the database, the schema's owner, and whether the role exists.
select current_database()::text, session_user::text, pg_get_userbyid(n.nspowner)::text,
       r.rolname is not null, coalesce(r.rolsuper, false), coalesce(has_database_privilege(r.oid, d.oid, 'connect'), false),
       coalesce(pg_has_role(r.oid, 'pg_read_all_stats', 'member'), false),
       coalesce((select s.setconfig from pg_db_role_setting s where s.setrole = r.oid and s.setdatabase = d.oid), '{}'),
       has_function_privilege('public', 'pg_catalog.pg_try_advisory_lock(integer, integer)', 'execute')
  from pg_namespace n
 cross join pg_database d
  left join pg_roles r on r.rolname = %(name)s
 where n.nspname = 'orchestrator' and d.datname = current_database();

-- name: objects
-- Tables (views and partitions too), sequences that no column owns, and functions, as `alter` names them.
select case when c.relkind = 'S' then 'sequence' else 'table' end, c.oid::regclass::text
  from pg_class c
 where c.relnamespace = 'orchestrator'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
   and not exists (select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
                      and c.relkind = 'S')
union all
select 'function', p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'orchestrator'::regnamespace
 order by 1, 2;

-- name: advisory_functions
select p.oid::regprocedure::text from pg_proc p
 where p.pronamespace = 'pg_catalog'::regnamespace and p.proname ~ '^pg_(try_)?advisory_'
 order by 1;

-- name: grantees
-- The roles that were granted something and still exist.
select g.name, array_agg(g.role order by g.role)
  from orchestrator.grantee g join pg_roles r on r.rolname = g.name
 group by g.name order by g.name;

-- name: forget
delete from orchestrator.grantee where name = %(name)s;

-- name: remember
insert into orchestrator.grantee (name, role) select %(name)s, unnest(%(roles)s::text[]);
