-- The quota ledger: grants are what came in, transactions what tasks hold or were charged,
-- adjustments everything else. Together they explain users.quota_remaining to the last unit.
create table quota_grants (
    id            uuid primary key,
    user_id       uuid not null references users (id),
    amount        bigint not null check (amount > 0),
    remaining     bigint not null check (remaining between 0 and amount),
    -- what indexes look at instead of remaining: it changes rarely, so most updates stay within their page
    live          boolean not null generated always as (remaining > 0) stored,
    kind          text not null check (kind in ('purchase', 'gift', 'manual', 'refund')),
    reference     text not null,
    priority      smallint not null default 0,
    expires_at    timestamptz,
    reason        text not null default '',
    ledger_no     bigint not null,
    balance_after bigint not null check (balance_after >= 0),
    created_at    timestamptz not null default clock_timestamp(),
    unique (kind, reference)
) with (fillfactor = 80);

create index quota_grants_of_user on quota_grants (user_id, id);
create index quota_grants_to_burn on quota_grants (user_id, priority, expires_at, id) where live;
create index quota_grants_to_expire on quota_grants (expires_at) where live and expires_at is not null;
create unique index quota_grants_in_ledger on quota_grants (user_id, ledger_no);

create table quota_transactions (
    id              uuid primary key,
    -- given when the charge is confirmed; a hold and a cancelled hold have none
    ledger_no       bigint,
    task_id         uuid not null unique,
    user_id         uuid not null references users (id),
    amount          bigint not null check (amount >= 0),
    charged         bigint not null default 0 check (charged between 0 and amount),
    -- in burn order: [{"grant": uuid, "amount": units held, "charged": units of them charged}]
    taken           jsonb not null default '[]',
    phase           text not null check (phase in ('reserved', 'confirmed', 'cancelled')),
    idempotent_done boolean generated always as (phase <> 'reserved') stored,
    balance_after   bigint check (balance_after >= 0),
    created_at      timestamptz not null default clock_timestamp(),
    updated_at      timestamptz not null default clock_timestamp()
) with (fillfactor = 80);

create index quota_transactions_of_user on quota_transactions (user_id, id);
create index quota_transactions_open on quota_transactions (user_id) where phase = 'reserved';
create unique index quota_transactions_in_ledger on quota_transactions (user_id, ledger_no) where ledger_no is not null;

-- Append only. Amounts are signed as the statement shows them (an expiry is negative).
create table quota_adjustments (
    id            uuid primary key,
    user_id       uuid not null references users (id),
    grant_id      uuid not null references quota_grants (id),
    kind          text not null check (kind in ('expiry', 'clawback', 'correction')),
    amount        bigint not null check (amount < 0),
    reference     text not null,
    reason        text not null default '',
    ledger_no     bigint not null,
    balance_after bigint not null check (balance_after >= 0),
    created_at    timestamptz not null default clock_timestamp()
);

create unique index quota_adjustments_in_ledger on quota_adjustments (user_id, ledger_no);
create index quota_adjustments_of_grant on quota_adjustments (grant_id);
create unique index quota_adjustments_once on quota_adjustments (kind, reference, grant_id) where kind <> 'expiry';

create table idempotency_keys (
    user_id      uuid not null references users (id),
    key          text not null,
    request_hash bytea not null,
    status       smallint not null,
    body         jsonb not null,
    created_at   timestamptz not null default clock_timestamp(),
    primary key (user_id, key)
);

create index idempotency_keys_by_age on idempotency_keys (created_at);

-- What a client must hear of, even if every Redis is lost: numbered per user, kept 7 days.
create table final_events (
    user_id  uuid not null references users (id),
    final_no bigint not null,
    event    text not null,
    task_id  uuid,
    data     jsonb not null,
    at       timestamptz not null default clock_timestamp(),
    primary key (user_id, final_no)
);

create index final_events_by_age on final_events using brin (at);
