-- What is remembered of sessions and identity beside the columns of users.

-- Sessions that were ended before their time. Redis holds the sessions themselves; a Redis that goes back to an
-- older state must revive none of these. A row is kept until no refresh token of its session could work any more.
create table closed_sessions (
    session_id uuid primary key,
    user_id    uuid not null references users (id),
    keep_until timestamptz not null
);

create index closed_sessions_by_age on closed_sessions (keep_until);

-- What happened to an account, for its owner and for admins; kept 180 days.
create table security_log (
    id         uuid primary key,
    -- null where nobody has the phone
    user_id    uuid references users (id),
    event      text not null,
    session_id uuid,
    -- where it came from, as far as it was said
    address    inet,
    user_agent text,
    detail     jsonb not null default '{}',
    at         timestamptz not null default clock_timestamp()
);

create index security_log_of_user on security_log (user_id, id desc);
create index security_log_by_age on security_log using brin (at);

-- Invite codes that are nobody's yet; a registration takes one.
create table invite_codes (
    code text primary key
);

-- Keyed hashes of those an invitation has given something: nobody is new twice.
create table gifted_identities (
    digest bytea primary key
);
