-- Tables that need no actor: plain rows, read and written by the request that is about them.
create table plans (
    id               uuid primary key,
    name             text not null,
    price_fen        bigint not null check (price_fen >= 0),
    quota            bigint not null check (quota >= 0),
    duration_days    integer not null check (duration_days > 0),
    -- ceilings of its members; the configured ones where it says none
    running_per_user integer check (running_per_user >= 0),
    queued_per_user  integer check (queued_per_user >= 0),
    retired_at       timestamptz,
    created_at       timestamptz not null default clock_timestamp()
);

create table files (
    id           uuid primary key,
    user_id      uuid not null references users (id),
    task_id      uuid,
    kind         text not null check (kind in ('upload', 'intermediate', 'output')),
    name         text not null,
    content_type text not null,
    size         bigint not null check (size >= 0),
    object_key   text not null unique,
    -- null until the bytes are known to be in the object store
    completed_at timestamptz,
    created_at   timestamptz not null default clock_timestamp()
);
create index files_of_user on files (user_id, id desc);
create index files_of_task on files (task_id) where task_id is not null;
create index files_incomplete on files (created_at) where completed_at is null;

create table audit_log (
    id         uuid primary key,
    actor_id   uuid not null,
    action     text not null,
    target     text not null,
    detail     jsonb not null default '{}',
    request_id text,
    at         timestamptz not null default clock_timestamp()
);

-- The timetable: a replica that runs a job holds its row's lease meanwhile.
create table jobs (
    name             text primary key,
    next_run_at      timestamptz not null,
    running_by       uuid,
    running_until    timestamptz,
    last_started_at  timestamptz,
    last_finished_at timestamptz,
    last_outcome     text
);
