//! The usual way: a transaction for each change of a task's state. It writes the same rows as ours, fenced in the same
//! way, and finds out nothing: each of its clients has slots of its own and knows what comes next.

use crate::support::{
    ground::{Ground, MANY},
    pgbench,
};
use anyhow::Result;
use std::time::Duration;

const USER: &str = "('00000000-0000-7000-8000-' || lpad((:n)::text, 12, '0'))::uuid";
const OWNER: &str = "'00000000-0000-0000-0000-000000000001'";
const BRANCHES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One task: accepted, claimed, begun, five calls that leave, five that return, joined, settled.
fn script() -> String {
    let fence = format!(
        "select status from tasks where id = :t_id and owner = {OWNER} and lease_no = 1 for no key update \\gset f_"
    );
    let mut script = format!(
        r#"\set n random(1, {MANY})
begin;
select quota_remaining, quota_reserved, final_no from users where id = {USER} for no key update \gset u_
select id from quota_grants where user_id = {USER} and live order by priority, expires_at, id limit 1 \gset g_
insert into tasks (id, user_id, pipeline_id, pipeline_version, status, queue, quota_cost, input)
  values (gen_random_uuid(), {USER}, '00000000-0000-0000-0000-000000000000', 1, 'queued', 'draw', 1,
  '{{"photo": "0190d0c4-0000-7000-8000-000000000000"}}') returning id \gset t_
update quota_grants set remaining = remaining - 1 where id = :g_id;
insert into quota_transactions (id, task_id, user_id, amount, taken, phase)
  values (gen_random_uuid(), :t_id, {USER}, 1,
  jsonb_build_array(jsonb_build_object('grant', {USER}, 'amount', 1, 'charged', 0)), 'reserved');
insert into final_events (user_id, final_no, event, data)
  values ({USER}, :u_final_no::bigint + 1, 'quota.changed',
  jsonb_build_object('remaining', :u_quota_remaining::bigint - 1, 'reserved', :u_quota_reserved::bigint + 1, 'reason', 'reserved'));
update users set quota_remaining = quota_remaining - 1, quota_reserved = quota_reserved + 1, final_no = final_no + 1
  where id = {USER};
commit;
update tasks set owner = {OWNER}, lease_no = lease_no + 1 where id = :t_id and status = 'queued' and owner is null;
begin;
{fence}
insert into task_steps (task_id, node_id, type, status, started_at, finished_at)
  values (:t_id, 'start', 'start', 'succeeded', clock_timestamp(), clock_timestamp()),
  (:t_id, 'fan', 'fork', 'succeeded', clock_timestamp(), clock_timestamp());
commit;
"#
    );
    for (number, node) in BRANCHES.iter().enumerate() {
        script.push_str(
            &format!(
                r"begin;
{fence}
insert into step_attempts (id, task_id, node_id, attempt, provider_id, idempotency_key, slot, cause, status, owner, lease_no, deadline_at)
  values (gen_random_uuid(), :t_id, '{node}', 1, 'draw', :t_id::text || ':' || '{node}', :client_id * 5 + {number}, 'first', 'running',
  {OWNER}, 1, clock_timestamp() + interval '30 s') returning id \gset {node}_
update provider_slots set attempt = :{node}_id, held_until = clock_timestamp() + interval '30 s'
  where provider = 'draw' and slot = :client_id * 5 + {number};
insert into task_steps (task_id, node_id, type, status, provider_id, started_at)
  values (:t_id, '{node}', 'provider', 'running', 'draw', clock_timestamp());
{}commit;
",
                if number == 0 {
                    "update tasks set status = 'running', started_at = clock_timestamp(),
  deadline_at = clock_timestamp() + interval '15 min' where id = :t_id;\n"
                } else {
                    ""
                }
            ),
        );
    }
    for (number, node) in BRANCHES.iter().enumerate() {
        script.push_str(
            &format!(
                r#"begin;
{fence}
update step_attempts set status = 'succeeded', finished_at = clock_timestamp() where id = :{node}_id and status = 'running';
update provider_slots set attempt = null, held_until = null where provider = 'draw' and slot = :client_id * 5 + {number};
update task_steps set status = 'succeeded', output = '{{"said": "done"}}', finished_at = clock_timestamp()
  where task_id = :t_id and node_id = '{node}';
update tasks set progress = {}, stalls = 0 where id = :t_id;
commit;
"#,
                (number + 1) * 20
            ),
        );
    }
    script.push_str(
        &format!(
            r#"begin;
{fence}
insert into task_steps (task_id, node_id, type, status, output, started_at, finished_at)
  values (:t_id, 'gather', 'join', 'succeeded', '{{"a": {{"said": "done"}}, "b": {{"said": "done"}},
  "c": {{"said": "done"}}, "d": {{"said": "done"}}, "e": {{"said": "done"}}}}', clock_timestamp(), clock_timestamp()),
  (:t_id, 'end', 'end', 'succeeded', '{{"said": "done"}}', clock_timestamp(), clock_timestamp());
commit;
begin;
select quota_remaining, quota_reserved, ledger_no, final_no from users where id = {USER} for no key update \gset u_
select id from quota_transactions where task_id = :t_id and phase = 'reserved' \gset q_
update quota_transactions set phase = 'confirmed', charged = 1, ledger_no = :u_ledger_no::bigint + 1,
  balance_after = :u_quota_remaining::bigint + :u_quota_reserved::bigint - 1, updated_at = clock_timestamp(),
  taken = jsonb_build_array(jsonb_build_object('grant', {USER}, 'amount', 1, 'charged', 1))
  where id = :q_id;
update tasks set status = 'succeeded', output = '{{"said": "done"}}', progress = 100,
  finished_at = clock_timestamp() where id = :t_id and owner = {OWNER} and lease_no = 1;
insert into final_events (user_id, final_no, event, task_id, data)
  values ({USER}, :u_final_no::bigint + 1, 'task.finished', :t_id, '{{"status": "succeeded",
  "output": {{"said": "done"}}, "error": null, "files": [], "charged": 1}}');
update users set quota_reserved = quota_reserved - 1, ledger_no = ledger_no + 1, final_no = final_no + 1
  where id = {USER};
commit;
"#
        ),
    );
    script
}

/// Tasks accepted, run and settled in a second by so many clients.
pub(crate) async fn throughput(ground: &Ground, clients: u32, length: Duration) -> Result<f64> {
    pgbench::throughput(ground, &script(), clients, length).await
}
