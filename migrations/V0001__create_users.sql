-- Who the customers are, and the three counters each user's money and events hang on.
create table users (
    id                    uuid primary key,
    phone                 text unique check (phone ~ '^1[0-9]{10}$'),
    password_hash         text,
    -- the mini-program's user, and what opens the data it encrypts, sealed with secrets.key
    wechat_openid         text unique,
    wechat_unionid        text unique,
    wechat_session_key    bytea,
    -- counts the times all sessions were closed: one that was opened before is not refreshed any more
    session_generation    bigint not null default 0,
    nickname              text not null default '',
    avatar                text,
    gender                text not null default 'unknown' check (gender in ('unknown', 'male', 'female')),
    role                  text not null default 'user' check (role in ('user', 'support', 'admin')),
    invite_code           text not null unique,
    referrer_id           uuid references users (id),
    banned_at             timestamptz,
    deleted_at            timestamptz,
    -- when nothing was left of a deleted account but its ledger
    erased_at             timestamptz,
    membership_plan_id    uuid,
    membership_expires_at timestamptz,
    -- what can be spent, and what running tasks hold; changed only under this row's lock
    quota_remaining       bigint not null default 0 check (quota_remaining >= 0),
    quota_reserved        bigint not null default 0 check (quota_reserved >= 0),
    -- the last number given to a ledger row and to a final event of this user
    ledger_no             bigint not null default 0,
    final_no              bigint not null default 0,
    created_at            timestamptz not null default clock_timestamp(),
    updated_at            timestamptz not null default clock_timestamp()
) with (fillfactor = 80); -- counters change often: leave room for updates within the page

create index users_to_erase on users (deleted_at) where deleted_at is not null and erased_at is null;
create index users_of_referrer on users (referrer_id) where referrer_id is not null;
