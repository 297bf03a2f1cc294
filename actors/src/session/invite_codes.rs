//! The pool of invite codes: made beforehand, so that a registration takes one without looking for a free one.

use super::{state::invite_code, store};
use crate::database::DatabaseError;
use deadpool_postgres::Client;

/// Below so many the pool is filled.
const LOW_WATER: i64 = 2_000;
/// Codes that are added at once.
const BATCH: usize = 4_000;

/// Fills the pool where it is low; answers how many codes were added.
pub(crate) async fn fill_invite_codes(client: &Client) -> Result<u64, DatabaseError> {
    if store::count_invite_codes(client).await? >= LOW_WATER {
        return Ok(0);
    }
    // one that somebody has already is left out; the next filling makes up for it
    let codes: Vec<String> = (0..BATCH).map(|_| invite_code(rand::random())).collect();
    store::add_invite_codes(client, &codes).await
}
