-- Tokens of the HTTP API: only a digest of the secret is kept.

-- name: create_token
insert into orchestrator.api_token (name, digest, scopes, org_id, expires_at)
values (%(name)s, %(digest)s, %(scopes)s::text[], %(org)s, clock_timestamp() + %(expires_in_s)s * interval '1 second')
    on conflict (name) where revoked_at is null do nothing
returning id, name, scopes, org_id, created_at, expires_at, revoked_at;

-- name: token
-- The token of this digest, if it may still be used.
select name, digest, scopes, org_id from orchestrator.api_token
 where digest = %(digest)s and revoked_at is null and (expires_at is null or expires_at > clock_timestamp());

-- name: tokens
select id, name, scopes, org_id, created_at, expires_at, revoked_at from orchestrator.api_token order by id;

-- name: revoke_token
update orchestrator.api_token set revoked_at = clock_timestamp()
 where name = %(name)s and revoked_at is null
returning id, name, scopes, org_id, created_at, expires_at, revoked_at;
