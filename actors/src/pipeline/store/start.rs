//! What must be known of pipeline, user and files before a task is accepted.

use crate::{
    database::DatabaseError,
    ids::{PipelineId, UserId},
};
use deadpool_postgres::Client;
use uuid::Uuid;

/// The facts a start is decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartFacts {
    /// The version that is published.
    pub(crate) version: i32,
    /// Whether the user's membership holds now.
    pub(crate) is_member: bool,
}

/// Reads the facts; `None` when no such pipeline is published.
pub(crate) async fn start_facts(
    client: &Client,
    pipeline: PipelineId,
    user: UserId,
) -> Result<Option<StartFacts>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select p.published_version,
                    exists (select from users u where u.id = $2 and u.membership_expires_at > clock_timestamp())
                        as is_member
             from pipelines p where p.id = $1 and p.published_version is not null",
        )
        .await?;
    let row = client.query_opt(&statement, &[&pipeline, &user]).await?;
    row.map(|row| Ok(StartFacts { version: row.try_get(0)?, is_member: row.try_get(1)? })).transpose()
}

/// Which of `files` are not completed files of `user`.
pub(crate) async fn foreign_files(
    client: &Client,
    user: UserId,
    files: &[Uuid],
) -> Result<Vec<Uuid>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select w.id from unnest($2::uuid[]) as w(id)
             where not exists (select from files f
                               where f.id = w.id and f.user_id = $1 and f.completed_at is not null)",
        )
        .await?;
    let rows = client.query(&statement, &[&user, &files]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
