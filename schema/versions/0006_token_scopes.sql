-- A token may have several scopes: a service that enqueues and works needs no second one. No earlier version
-- reads or writes this table.
alter table orchestrator.api_token
  drop column scope,
  add column scopes text[] not null default '{}',
  add constraint api_token_scopes_known check (scopes <@ array['producer', 'worker', 'admin', 'reader']),
  add constraint api_token_name_length check (length(name) between 1 and 200),
  add constraint api_token_org_length check (length(org_id) between 1 and 200);

-- The audit log names tokens, so a name stands for one of them at a time.
create unique index api_token_live_name on orchestrator.api_token (name) where revoked_at is null;
