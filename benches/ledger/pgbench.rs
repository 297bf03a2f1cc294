//! The usual way: one transaction for each operation, with the user's row locked by `select ... for update`.
//! It writes the same rows as ours.

use crate::{
    Users,
    support::{ground::Ground, pgbench},
};
use anyhow::Result;
use std::time::Duration;

/// One task: a transaction that accepts it and one that settles it.
fn script(users: Users) -> String {
    let grant_and_user = "('00000000-0000-7000-8000-' || lpad((:n)::text, 12, '0'))::uuid";
    format!(
        r#"\set n random(1, {})
begin;
select quota_remaining, quota_reserved, final_no from users where id = {grant_and_user} for update \gset u_
select id from quota_grants where user_id = {grant_and_user} and live order by priority, expires_at, id limit 1 \gset g_
insert into tasks (id, user_id, pipeline_id, pipeline_version, status, quota_cost, input)
  values (gen_random_uuid(), {grant_and_user}, '00000000-0000-0000-0000-000000000000', 1, 'queued', 1,
  '{{"photo": "0190d0c4-0000-7000-8000-000000000000"}}') returning id \gset t_
update quota_grants set remaining = remaining - 1 where id = :g_id;
insert into quota_transactions (id, task_id, user_id, amount, taken, phase)
  values (gen_random_uuid(), :t_id, {grant_and_user}, 1,
  jsonb_build_array(jsonb_build_object('grant', {grant_and_user}, 'amount', 1, 'charged', 0)), 'reserved');
insert into final_events (user_id, final_no, event, data)
  values ({grant_and_user}, :u_final_no::bigint + 1, 'quota.changed',
  jsonb_build_object('remaining', :u_quota_remaining::bigint - 1, 'reserved', :u_quota_reserved::bigint + 1, 'reason', 'reserved'));
update users set quota_remaining = quota_remaining - 1, quota_reserved = quota_reserved + 1, final_no = final_no + 1
  where id = {grant_and_user};
commit;
begin;
select quota_remaining, quota_reserved, ledger_no, final_no from users where id = {grant_and_user} for update \gset u_
select id from quota_transactions where task_id = :t_id and phase = 'reserved' \gset q_
update quota_transactions set phase = 'confirmed', charged = 1, ledger_no = :u_ledger_no::bigint + 1,
  balance_after = :u_quota_remaining::bigint + :u_quota_reserved::bigint - 1, updated_at = clock_timestamp(),
  taken = jsonb_build_array(jsonb_build_object('grant', {grant_and_user}, 'amount', 1, 'charged', 1))
  where id = :q_id;
update tasks set status = 'succeeded', output = '{{"lookbook": "0190d0c4-0000-7000-8000-000000000001"}}',
  progress = 100, finished_at = clock_timestamp() where id = :t_id;
insert into final_events (user_id, final_no, event, task_id, data)
  values ({grant_and_user}, :u_final_no::bigint + 1, 'task.finished', :t_id, '{{"status": "succeeded",
  "output": {{"lookbook": "0190d0c4-0000-7000-8000-000000000001"}}, "error": null, "files": [], "charged": 1}}');
update users set quota_reserved = quota_reserved - 1, ledger_no = ledger_no + 1, final_no = final_no + 1
  where id = {grant_and_user};
commit;
"#,
        users.count()
    )
}

/// Tasks accepted and settled in a second by so many clients.
pub(crate) async fn throughput(ground: &Ground, users: Users, clients: u32, length: Duration) -> Result<f64> {
    pgbench::throughput(ground, &script(users), clients, length).await
}
