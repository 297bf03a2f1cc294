-- Keys by which programs call in a user's name, and what each has spent: a cap of the day and of the month holds.
create table api_keys (
    id              uuid primary key,
    user_id         uuid not null references users (id),
    name            text not null,
    -- SHA-256 of the whole text of the key, which is random and stored nowhere
    key_hash        bytea not null unique check (octet_length(key_hash) = 32),
    scopes          text[] not null check (scopes <> '{}' and scopes <@ array['tasks', 'files', 'read']),
    -- units; null for no cap
    daily_quota     bigint check (daily_quota >= 0),
    monthly_quota   bigint check (monthly_quota >= 0),
    expires_at      timestamptz,
    -- the key under which the request came, which for a day makes no second one
    idempotency_key text,
    created_at      timestamptz not null default clock_timestamp(),
    last_used_at    timestamptz,
    revoked_at      timestamptz
);

create index api_keys_of_user on api_keys (user_id, id desc);

-- What a key's tasks hold or were charged, by the day of Asia/Shanghai on which they were started; a month is the sum of
-- its days. Written by the ledger's flush alone, under the lock of the user's row.
create table api_key_usage (
    key_id  uuid not null references api_keys (id),
    day     date not null,
    user_id uuid not null references users (id),
    amount  bigint not null check (amount >= 0),
    primary key (key_id, day)
) with (fillfactor = 80);

-- Where a hold was counted, so that what it gives back is taken off the same day.
alter table quota_transactions
    add column api_key_id uuid,
    add column spent_on date,
    add constraint quota_transactions_counted check ((api_key_id is null) = (spent_on is null));
