//! The fastest honest client we could think of: it knows all counters beforehand, decides nothing, and sends
//! set-based statements that write the same rows, 250 operations a commit, over two connections.

use crate::support::ground::{Figure, Ground, MANY, UNITS, user};
use anyhow::Result;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio_postgres::{Statement, types::ToSql};
use uuid::Uuid;

const OPERATIONS: usize = 250;
const CONNECTIONS: usize = 2;
const WARM_UP: Duration = Duration::from_secs(2);

const LOCK: &str = "select id from users where id = any($1) order by id for no key update";
const TASKS: &str = "
    insert into tasks (id, user_id, pipeline_id, pipeline_version, status, quota_cost, input)
    select t.id, t.user_id, '00000000-0000-0000-0000-000000000000', 1, 'queued', 1,
        '{\"photo\": \"0190d0c4-0000-7000-8000-000000000000\"}'
    from unnest($1::uuid[], $2::uuid[]) as t (id, user_id)";
const HOLDS: &str = "
    insert into quota_transactions (id, task_id, user_id, amount, taken, phase)
    select t.id, t.task_id, t.user_id, 1,
        jsonb_build_array(jsonb_build_object('grant', t.user_id, 'amount', 1, 'charged', 0)), 'reserved'
    from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as t (id, task_id, user_id)";
const GRANTS: &str = "update quota_grants set remaining = remaining - 1 where id = any($1)";
const RESERVED: &str = "
    insert into final_events (user_id, final_no, event, data)
    select e.user_id, e.no, 'quota.changed',
        jsonb_build_object('remaining', e.remaining, 'reserved', 1, 'reason', 'reserved')
    from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as e (user_id, no, remaining)";
const RESERVE: &str = "
    update users set quota_remaining = quota_remaining - 1, quota_reserved = quota_reserved + 1,
        final_no = final_no + 1
    where id = any($1)";
const SETTLE_HOLDS: &str = "
    update quota_transactions q set phase = 'confirmed', charged = 1, ledger_no = t.no,
        balance_after = t.balance, updated_at = clock_timestamp(),
        taken = jsonb_build_array(jsonb_build_object('grant', q.user_id, 'amount', 1, 'charged', 1))
    from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as t (id, no, balance) where q.id = t.id";
const FINISH: &str = "
    update tasks set status = 'succeeded', progress = 100, finished_at = clock_timestamp(),
        output = '{\"lookbook\": \"0190d0c4-0000-7000-8000-000000000001\"}'
    where id = any($1)";
const FINISHED: &str = "
    insert into final_events (user_id, final_no, event, task_id, data)
    select e.user_id, e.no, 'task.finished', e.task_id, '{\"status\": \"succeeded\", \"error\": null,
        \"output\": {\"lookbook\": \"0190d0c4-0000-7000-8000-000000000001\"}, \"files\": [], \"charged\": 1}'
    from unnest($1::uuid[], $2::bigint[], $3::uuid[]) as e (user_id, no, task_id)";
const SETTLE: &str = "
    update users set quota_reserved = quota_reserved - 1, ledger_no = ledger_no + 1, final_no = final_no + 1
    where id = any($1)";

type Param<'a> = &'a (dyn ToSql + Sync);

struct Statements {
    lock: Statement,
    tasks: Statement,
    holds: Statement,
    grants: Statement,
    reserved: Statement,
    reserve: Statement,
    settle_holds: Statement,
    finish: Statement,
    finished: Statement,
    settle: Statement,
}

/// Tasks accepted and settled in a second.
pub(crate) async fn throughput(ground: &Ground, length: Duration) -> Result<Figure> {
    let name = "set_based";
    ground.copy(name).await?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + length;
    let before = ground.cpu()?;
    let settled = Rc::new(Cell::new((0, 0)));
    let runs =
        (0..CONNECTIONS).map(|connection| work(ground, name, connection, begin, end, Rc::clone(&settled)));
    futures_util::future::try_join_all(runs).await?;
    let (within, all) = settled.get();
    let figure = Figure::new(within, length, all, before, ground.cpu()?);
    ground.check(name).await?;
    ground.drop_copy(name).await?;
    Ok(figure)
}

/// One connection with users of its own, who take their turns, so that no statement meets a user twice.
async fn work(
    ground: &Ground,
    name: &str,
    connection: usize,
    begin: Instant,
    end: Instant,
    settled: Rc<Cell<(u32, u32)>>,
) -> Result<()> {
    let mut client = ground.connect(name).await?;
    let statements = prepare(&client).await?;
    let mut own: Vec<usize> = (0..MANY).filter(|number| number % CONNECTIONS == connection).collect();
    // nobody's callers come in the order of their rows
    own.shuffle(&mut StdRng::seed_from_u64(connection as u64));
    let mut done = vec![0_i64; MANY];
    for turn in own.chunks_exact(OPERATIONS).cycle() {
        if Instant::now() >= end {
            break;
        }
        let users: Vec<Uuid> = turn.iter().map(|number| user(*number).0).collect();
        let tasks: Vec<Uuid> = turn.iter().map(|_| Uuid::now_v7()).collect();
        let holds: Vec<Uuid> = turn.iter().map(|_| Uuid::now_v7()).collect();
        let before: Vec<i64> = turn.iter().filter_map(|number| done.get(*number).copied()).collect();
        let remaining: Vec<i64> = before.iter().map(|done| UNITS - done - 1).collect();
        let first_no: Vec<i64> = before.iter().map(|done| done * 2 + 1).collect();
        let second_no: Vec<i64> = before.iter().map(|done| done * 2 + 2).collect();
        let ledger_no: Vec<i64> = before.iter().map(|done| done + 2).collect();

        let of_users: [Param<'_>; 1] = [&users];
        let of_tasks: [Param<'_>; 1] = [&tasks];
        let new_tasks: [Param<'_>; 2] = [&tasks, &users];
        let new_holds: [Param<'_>; 3] = [&holds, &tasks, &users];
        let reserved: [Param<'_>; 3] = [&users, &first_no, &remaining];
        let charged: [Param<'_>; 3] = [&holds, &ledger_no, &remaining];
        let finished: [Param<'_>; 3] = [&users, &second_no, &tasks];
        let transaction = client.transaction().await?;
        futures_util::try_join!(
            transaction.execute(&statements.lock, &of_users),
            transaction.execute(&statements.grants, &of_users),
            transaction.execute(&statements.tasks, &new_tasks),
            transaction.execute(&statements.holds, &new_holds),
            transaction.execute(&statements.reserved, &reserved),
            transaction.execute(&statements.reserve, &of_users),
        )?;
        transaction.commit().await?;
        let transaction = client.transaction().await?;
        futures_util::try_join!(
            transaction.execute(&statements.lock, &of_users),
            transaction.execute(&statements.settle_holds, &charged),
            transaction.execute(&statements.finish, &of_tasks),
            transaction.execute(&statements.finished, &finished),
            transaction.execute(&statements.settle, &of_users),
        )?;
        transaction.commit().await?;
        for number in turn {
            if let Some(done) = done.get_mut(*number) {
                *done += 1;
            }
        }
        let (within, all) = settled.get();
        let more = u32::try_from(turn.len())?;
        let counts = (begin..end).contains(&Instant::now());
        settled.set((if counts { within + more } else { within }, all + more));
    }
    Ok(())
}

async fn prepare(client: &tokio_postgres::Client) -> Result<Statements> {
    Ok(Statements {
        lock: client.prepare(LOCK).await?,
        tasks: client.prepare(TASKS).await?,
        holds: client.prepare(HOLDS).await?,
        grants: client.prepare(GRANTS).await?,
        reserved: client.prepare(RESERVED).await?,
        reserve: client.prepare(RESERVE).await?,
        settle_holds: client.prepare(SETTLE_HOLDS).await?,
        finish: client.prepare(FINISH).await?,
        finished: client.prepare(FINISHED).await?,
        settle: client.prepare(SETTLE).await?,
    })
}
