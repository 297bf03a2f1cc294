-- Definitions of work, the providers they call, and what bounds those calls in the whole cluster.
create table pipelines (
    id                uuid primary key,
    name              text not null,
    description       text not null default '',
    published_version integer,
    created_at        timestamptz not null default clock_timestamp(),
    updated_at        timestamptz not null default clock_timestamp()
);

-- A version never changes: a task keeps the one it started with.
create table pipeline_versions (
    pipeline_id uuid not null references pipelines (id),
    version     integer not null check (version > 0),
    definition  jsonb not null,
    created_by  uuid,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (pipeline_id, version)
);

create table providers (
    id           text primary key,
    kind         text not null,
    config       jsonb not null,
    -- credentials, sealed with secrets.key; never part of config
    auth_sealed  bytea,
    enabled      boolean not null default true,
    -- a Retry-After of the provider: no replica calls it before
    paused_until timestamptz,
    created_at   timestamptz not null default clock_timestamp(),
    updated_at   timestamptz not null default clock_timestamp()
);

create table provider_slots (
    provider   text not null references providers (id) on delete cascade,
    slot       integer not null check (slot >= 0),
    attempt    uuid,
    held_until timestamptz,
    primary key (provider, slot),
    check ((attempt is null) = (held_until is null))
);
create index provider_slots_of_attempt on provider_slots (attempt) where attempt is not null;
-- Since when calls wait for a slot at each replica, the oldest ones: a slot is left to who waits longest.
create table slot_waits (
    owner    uuid not null,
    provider text not null,
    since    timestamptz[] not null,
    primary key (provider, owner)
) with (fillfactor = 50);

-- Calls of providers with a rate limit, counted in buckets of time, newest first.
create table provider_rates (
    provider      text primary key references providers (id) on delete cascade,
    second_newest bigint not null default 0,
    second_calls  integer[] not null default '{}',
    minute_newest bigint not null default 0,
    minute_calls  integer[] not null default '{}'
) with (fillfactor = 50);

-- How providers fare, as each replica last saw it. Only for people, and for guesses of how long calls wait.
create table provider_figures (
    owner         uuid not null,
    provider      text not null references providers (id) on delete cascade,
    waiting       bigint not null,
    -- calls that ended in the last five minutes, and those that failed
    calls         bigint not null,
    failures      bigint not null,
    -- how long a call takes, lately
    call_ms       bigint,
    breaker       text not null check (breaker in ('closed', 'half_open', 'open')),
    open_until    timestamptz,
    error_code    text,
    error_message text,
    error_at      timestamptz,
    primary key (owner, provider)
) with (fillfactor = 50);
