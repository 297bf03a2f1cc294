//! The checks, one statement each. A new table with an invariant adds its check here.

use super::Check;

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "user_remaining",
        breaches: "
            select 'user ' || u.id,
                format('remaining is %s, the grants have %s left', u.quota_remaining, coalesce(g.remaining, 0))
            from users u
            left join (select user_id, sum(remaining) as remaining from quota_grants group by user_id) g
                on g.user_id = u.id
            where u.quota_remaining <> coalesce(g.remaining, 0)",
    },
    Check {
        name: "user_reserved",
        breaches: "
            select 'user ' || u.id,
                format('reserved is %s, the open holds have %s', u.quota_reserved, coalesce(t.amount, 0))
            from users u
            left join (
                select user_id, sum(amount) as amount from quota_transactions
                where phase = 'reserved' group by user_id
            ) t on t.user_id = u.id
            where u.quota_reserved <> coalesce(t.amount, 0)",
    },
    Check {
        name: "grant_amount",
        breaches: "
            with parts as (
                select (part ->> 'grant')::uuid as grant_id,
                    sum(case when t.phase = 'reserved' then (part ->> 'amount')::bigint else 0 end) as held,
                    sum(case when t.phase = 'confirmed' then (part ->> 'charged')::bigint else 0 end) as charged
                from quota_transactions t cross join lateral jsonb_array_elements(t.taken) as part
                where t.phase in ('reserved', 'confirmed')
                group by 1
            ), adjusted as (
                select grant_id, - sum(amount) as amount from quota_adjustments group by grant_id
            )
            select 'grant ' || coalesce(g.id, p.grant_id),
                format('amount is %s; %s left, %s adjusted away, %s held, %s charged', coalesce(g.amount, 0),
                    coalesce(g.remaining, 0), coalesce(a.amount, 0), coalesce(p.held, 0),
                    coalesce(p.charged, 0))
            from quota_grants g
            full join parts p on p.grant_id = g.id
            left join adjusted a on a.grant_id = g.id
            where g.id is null
            or g.amount <> g.remaining + coalesce(a.amount, 0) + coalesce(p.held, 0) + coalesce(p.charged, 0)",
    },
    Check {
        name: "hold_parts",
        breaches: "
            with parts as (
                select t.id, t.user_id, (part ->> 'grant')::uuid as grant_id,
                    (part ->> 'amount')::bigint as amount, (part ->> 'charged')::bigint as charged
                from quota_transactions t cross join lateral jsonb_array_elements(t.taken) as part
            ), summed as (
                select p.id, sum(p.amount) as amount, sum(p.charged) as charged,
                    count(*) filter (where g.user_id is distinct from p.user_id) as foreign_parts,
                    count(*) filter (where p.charged not between 0 and p.amount) as overcharged
                from parts p left join quota_grants g on g.id = p.grant_id group by p.id
            )
            select 'transaction ' || t.id,
                format('%s holds %s and charges %s; its parts %s and %s, %s of another user', t.phase, t.amount,
                    t.charged, coalesce(s.amount, 0), coalesce(s.charged, 0), coalesce(s.foreign_parts, 0))
            from quota_transactions t left join summed s on s.id = t.id
            where t.amount <> coalesce(s.amount, 0) or t.charged <> coalesce(s.charged, 0)
            or s.foreign_parts > 0 or s.overcharged > 0 or (t.phase <> 'confirmed' and t.charged <> 0)",
    },
    Check {
        name: "task_transaction",
        breaches: "
            select 'task ' || coalesce(k.id, t.task_id),
                case when t.id is null then 'it has no quota transaction'
                    when k.id is null then 'it does not exist and holds ' || t.amount
                    else format('it costs %s and is of user %s; its transaction has %s and user %s',
                        k.quota_cost, k.user_id, t.amount, t.user_id) end
            from tasks k full join quota_transactions t on t.task_id = k.id
            where t.id is null
            -- old tasks are dropped by retention, their settled transactions are kept
            or (k.id is null and t.phase = 'reserved')
            or (k.id is not null and (k.quota_cost <> t.amount or k.user_id <> t.user_id))",
    },
    Check {
        name: "task_settled",
        breaches: "
            select 'task ' || k.id, format('it is %s, its quota is %s', k.status, t.phase)
            from tasks k join quota_transactions t on t.task_id = k.id
            where t.phase <> all (case k.status
                when 'queued' then array['reserved']
                when 'running' then array['reserved']
                when 'succeeded' then array['confirmed']
                when 'cancelled' then array['cancelled']
                else array['confirmed', 'cancelled'] end)",
    },
    Check {
        name: "task_times",
        breaches: "
            select 'task ' || id, format('it is %s and finished at %s', status, coalesce(finished_at::text, '-'))
            from tasks
            where (finished_at is null) <> (status in ('queued', 'running'))
            or (status = 'running' and started_at is null)",
    },
    Check {
        name: "ledger_numbers",
        breaches: "
            with ledger as (
                select user_id, ledger_no from quota_grants
                union all select user_id, ledger_no from quota_adjustments
                union all select user_id, ledger_no from quota_transactions where ledger_no is not null
            ), counted as (
                select user_id, count(*) as rows, count(distinct ledger_no) as numbers, min(ledger_no) as first,
                    max(ledger_no) as last
                from ledger group by user_id
            )
            select 'user ' || u.id,
                format('the last ledger number is %s; %s rows have %s numbers from %s to %s', u.ledger_no,
                    coalesce(c.rows, 0), coalesce(c.numbers, 0), coalesce(c.first, 0), coalesce(c.last, 0))
            from users u left join counted c on c.user_id = u.id
            where u.ledger_no <> coalesce(c.rows, 0) or u.ledger_no <> coalesce(c.numbers, 0)
            or u.ledger_no <> coalesce(c.last, 0) or coalesce(c.first, 1) <> 1",
    },
    Check {
        name: "ledger_balances",
        breaches: "
            with ledger as (
                select user_id, ledger_no, amount, balance_after from quota_grants
                union all select user_id, ledger_no, amount, balance_after from quota_adjustments
                union all select user_id, ledger_no, - charged, balance_after
                    from quota_transactions where ledger_no is not null
            ), chained as (
                select *, coalesce(lag(balance_after) over by_number, 0) as balance_before,
                    lead(ledger_no) over by_number is null as is_last
                from ledger window by_number as (partition by user_id order by ledger_no)
            )
            select 'user ' || u.id,
                format('ledger row %s: %s after %s makes %s; now %s are left and %s reserved',
                    coalesce(c.ledger_no, 0), coalesce(c.amount, 0), coalesce(c.balance_before, 0),
                    coalesce(c.balance_after, 0), u.quota_remaining, u.quota_reserved)
            from users u left join chained c on c.user_id = u.id
            where c.balance_after <> c.balance_before + c.amount
            or (coalesce(c.is_last, true)
                and coalesce(c.balance_after, 0) <> u.quota_remaining + u.quota_reserved)",
    },
    Check {
        name: "charge_in_ledger",
        breaches: "
            select 'transaction ' || id,
                format('%s with a charge of %s has ledger number %s', phase, charged, coalesce(ledger_no::text, '-'))
            from quota_transactions
            where (ledger_no is not null) <> (charged > 0) or (ledger_no is null) <> (balance_after is null)",
    },
    Check {
        name: "api_key_usage",
        breaches: "
            with counted as (
                select api_key_id, spent_on, sum(case phase when 'reserved' then amount else charged end) as amount
                from quota_transactions where api_key_id is not null group by api_key_id, spent_on
            )
            select format('API key %s on %s', coalesce(u.key_id, c.api_key_id), coalesce(u.day, c.spent_on)),
                format('it has spent %s; its tasks of that day hold and were charged %s',
                    coalesce(u.amount, 0), coalesce(c.amount, 0))
            from api_key_usage u
            full join counted c on c.api_key_id = u.key_id and c.spent_on = u.day
            where coalesce(u.amount, 0) <> coalesce(c.amount, 0)",
    },
    Check {
        name: "api_key_owner",
        breaches: "
            select 'transaction ' || t.id,
                format('it is of user %s and counted to a key of user %s', t.user_id, coalesce(k.user_id::text, '-'))
            from quota_transactions t left join api_keys k on k.id = t.api_key_id
            where t.api_key_id is not null and k.user_id is distinct from t.user_id",
    },
    Check {
        name: "final_numbers",
        breaches: "
            select 'user ' || u.id,
                format('the last final number is %s; %s events are kept, from %s to %s', u.final_no, e.rows, e.first,
                    e.last)
            from users u
            join (
                select user_id, count(*) as rows, min(final_no) as first, max(final_no) as last
                from final_events group by user_id
            ) e on e.user_id = u.id
            where u.final_no <> e.last or e.rows <> e.last - e.first + 1",
    },
    Check {
        name: "task_told",
        breaches: "
            select 'task ' || k.id, format('it is %s, and %s events say that it finished', k.status, count(e.final_no))
            from tasks k left join final_events e
                on e.user_id = k.user_id and e.task_id = k.id and e.event = 'task.finished'
            -- events are kept for seven days
            where k.status in ('queued', 'running')
            or k.finished_at > clock_timestamp() - interval '6 days'
            group by k.id, k.status
            having count(e.final_no) <> case when k.status in ('queued', 'running') then 0 else 1 end",
    },
    Check {
        name: "attempt_open",
        breaches: "
            select 'attempt ' || a.id,
                format('it runs since %s for task %s, which is %s', a.started_at, a.task_id,
                    coalesce(k.status, 'gone'))
            from step_attempts a left join tasks k on k.id = a.task_id
            where a.status = 'running'
            and (k.id is null or k.status in ('succeeded', 'failed', 'cancelled'))
            -- a minute for the replica that waits for the answer, or for the one that takes its place
            and a.deadline_at < clock_timestamp() - interval '1 minute'",
    },
    Check {
        name: "slot_held",
        breaches: "
            select format('slot %s of provider %s', s.slot, s.provider),
                format('attempt %s holds it until %s and is %s', s.attempt, s.held_until,
                    coalesce(a.status, 'gone'))
            from provider_slots s left join step_attempts a on a.id = s.attempt
            where s.attempt is not null and s.held_until > clock_timestamp()
            and (a.id is null or a.status <> 'running' or a.provider_id <> s.provider)",
    },
    Check {
        name: "slot_twice",
        breaches: "
            select 'attempt ' || attempt, format('it holds %s slots', count(*))
            from provider_slots where attempt is not null and held_until > clock_timestamp()
            group by attempt having count(*) > 1",
    },
    Check {
        name: "step_orphaned",
        breaches: "
            select format('step %s of task %s', s.node_id, s.task_id), 'its task does not exist'
            from task_steps s left join tasks k on k.id = s.task_id where k.id is null
            union all
            select 'attempt ' || a.id, 'its step does not exist'
            from step_attempts a
            left join task_steps s on s.task_id = a.task_id and s.node_id = a.node_id
            where s.task_id is null",
    },
    Check {
        name: "idempotency_answer",
        breaches: "
            select format('key of user %s', user_id), format('it keeps an answer of status %s', status)
            from idempotency_keys where status not between 200 and 299",
    },
];
