-- One row for each process start of the service; tasks of an expired owner may be claimed by others.
create table replicas (
    owner      uuid primary key,
    label      text not null,
    -- how its actors fare, written with each renewal
    actors     jsonb not null default '[]',
    started_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    -- since when it has been renewed in time, again and again: who was not cannot judge the silence of others
    steady_since timestamptz not null default clock_timestamp()
);

create table tasks (
    id               uuid primary key,
    user_id          uuid not null references users (id),
    pipeline_id      uuid not null,
    pipeline_version integer not null,
    status           text not null check (status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    progress         smallint not null default 0 check (progress between 0 and 100),
    -- 1: a member's, 0: a guest's, as its user was when it came
    priority         smallint not null default 0 check (priority in (0, 1)),
    -- the provider that bounds its first calls, empty where the replicas' cores do
    queue            text not null default '',
    -- whether those calls would ask another provider if that one took none
    has_fallback     boolean not null default false,
    quota_cost       bigint not null check (quota_cost >= 0),
    input            jsonb not null,
    output           jsonb,
    error            jsonb,
    -- who runs it, and the fencing number each claim raises: every write of a run names both
    owner            uuid,
    lease_no         bigint not null default 0,
    -- claims after a death or a panic with no step finished since; three end the task
    stalls           smallint not null default 0,
    created_at       timestamptz not null default clock_timestamp(),
    started_at       timestamptz,
    deadline_at      timestamptz,
    finished_at      timestamptz
) with (fillfactor = 70);

create index tasks_of_user on tasks (user_id, id desc);
-- the next task of each user in each queue, in the order in which tasks are started
create index tasks_to_start on tasks (queue, priority, user_id, id) where status = 'queued' and owner is null;
-- of them those that can start while the provider of their queue takes no calls
create index tasks_to_divert on tasks (queue, priority, user_id, id)
    where status = 'queued' and owner is null and has_fallback;
create index tasks_queued_of_user on tasks (user_id, queue, priority, id) where status = 'queued' and owner is null;
create index tasks_queued_since on tasks (created_at) where status = 'queued' and owner is null;
-- taken, and no call has left yet
create index tasks_taken on tasks (queue, owner) where status = 'queued' and owner is not null;
-- let go by a replica that was shut down
create index tasks_released on tasks (id) where status = 'running' and owner is null;
create index tasks_claimed_by_owner on tasks (owner) where owner is not null and status in ('queued', 'running');
create index tasks_claimed_of_user on tasks (user_id) where owner is not null and status in ('queued', 'running');

-- Whose turn it is in each queue; locked by the replica that takes tasks from it.
create table task_queues (
    queue   text primary key,
    -- the member and the guest who had the last turn, and the members' turns since a guest's
    member  uuid not null,
    guest   uuid not null,
    members smallint not null
) with (fillfactor = 50);

-- What tasks wait for that a replica has taken, as it saw it a second ago, for those who ask another.
create table task_waits (
    task     uuid primary key,
    owner    uuid not null,
    reason   text not null,
    position bigint,
    -- when it is over, as far as can be guessed
    until    timestamptz
) with (fillfactor = 50);
create index task_waits_of_owner on task_waits (owner);

-- When users with open sockets were last told what their queued tasks wait for: one replica tells.
create table users_told (
    user_id uuid primary key,
    told_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

create table task_steps (
    task_id     uuid not null,
    node_id     text not null,
    type        text not null check (type in ('start', 'provider', 'fork', 'join', 'end')),
    status      text not null check (status in ('pending', 'running', 'succeeded', 'failed', 'skipped', 'cancelled')),
    provider_id text,
    output      jsonb,
    error       jsonb,
    started_at  timestamptz,
    finished_at timestamptz,
    primary key (task_id, node_id)
);

create table step_attempts (
    id              uuid primary key,
    task_id         uuid not null,
    node_id         text not null,
    attempt         integer not null check (attempt > 0),
    provider_id     text not null,
    -- sent to the provider as Idempotency-Key
    idempotency_key text not null,
    -- the provider's job that the call has submitted: whoever takes the task over asks about it
    job_id          text,
    slot            integer,
    -- why this call was made
    cause           text not null check (cause in ('first', 'retry', 'fallback', 'crash')),
    status          text not null check (status in ('running', 'succeeded', 'failed', 'cancelled', 'unknown')),
    error           jsonb,
    owner           uuid not null,
    lease_no        bigint not null,
    started_at      timestamptz not null default clock_timestamp(),
    deadline_at     timestamptz not null,
    finished_at     timestamptz,
    unique (task_id, node_id, attempt)
);
create index step_attempts_running on step_attempts (deadline_at) where status = 'running';
