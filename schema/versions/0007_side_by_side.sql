-- Code that is older than the schema runs on beside the new one while an upgrade rolls, may be started
-- again meanwhile, and may be gone back to. Which code that is, is said here: the last migration that
-- it has to know. A migration that old code cannot live with moves it on.
alter table orchestrator.schema_version add column oldest text not null default '0004';
comment on column orchestrator.schema_version.oldest is 'code that knows this migration works with the schema, whatever came after it';
