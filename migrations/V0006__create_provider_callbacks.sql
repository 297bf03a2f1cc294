-- The inbox of asynchronous providers: what they bring to the addresses that calls have named. Each address is good
-- for one body; a row is written with its attempt, before the call leaves.
create table provider_callbacks (
    -- SHA-256 of the token in the address: whoever reads this table can answer for nobody
    token_hash  bytea primary key check (octet_length(token_hash) = 32),
    attempt     uuid not null unique,
    -- until when a late or repeated callback is known as one
    expires_at  timestamptz not null,
    received_at timestamptz,
    -- null where it came too late for anybody to read it
    body        bytea,
    check (body is null or received_at is not null)
);
create index provider_callbacks_expiring on provider_callbacks (expires_at);
