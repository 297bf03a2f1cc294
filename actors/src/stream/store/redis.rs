//! The stream's keys and scripts. What is here may be lost; final events are also in PostgreSQL.

use crate::{
    events::Event,
    ids::{TaskId, UserId},
    redis_client::{RedisClient, RedisUnavailable},
    stream::{
        messages::{Epoch, EventClass, Position, StreamEvent},
        state::{
            Cursor,
            relay::{Line, Standing},
        },
    },
};
use redis::{FromRedisValue, Pipeline, RedisResult, Value};
use std::{sync::Arc, time::Duration};

const RELAY: &str = concat!(include_str!("position.lua"), include_str!("relay.lua"));
const READ: &str = concat!(include_str!("position.lua"), include_str!("read.lua"));

/// The position outlives the history by this, so that a client that missed nothing can still say so.
const POSITION_LONGER: Duration = Duration::from_secs(24 * 3600);

/// How much of each user's events is kept.
#[derive(Clone, Copy, Debug)]
pub(in crate::stream) struct Retention {
    /// Events, about.
    pub events: usize,
    /// Time after the newest.
    pub age: Duration,
}

impl Retention {
    fn position_seconds(self) -> u64 {
        (self.age + POSITION_LONGER).as_secs()
    }
}

/// Events of one user to relay, in order.
#[derive(Clone, Debug)]
pub(in crate::stream) struct Batch {
    /// Whose.
    pub user: UserId,
    /// What.
    pub lines: Vec<Line>,
    /// Whether the first final event may follow any number.
    pub jump: bool,
}

/// Where a user's events stand and what comes after a cursor.
#[derive(Clone, Debug)]
pub(in crate::stream) struct Read {
    /// The newest position.
    pub head: Position,
    /// Events after the cursor, ascending.
    pub entries: Vec<Arc<StreamEvent>>,
}

/// What to read for one user.
#[derive(Clone, Debug)]
pub(in crate::stream) struct ReadWanted {
    /// Whose.
    pub user: UserId,
    /// The newest final event in PostgreSQL.
    pub newest_final: i64,
    /// After what; `None` for the position alone.
    pub cursor: Option<Cursor>,
    /// Events at most.
    pub events: usize,
    /// Bytes at most.
    pub bytes: usize,
}

fn position_key(redis: &RedisClient, user: UserId) -> String {
    redis.key(&format!("events:{{{user}}}:position"))
}

fn history_key(redis: &RedisClient, user: UserId) -> String {
    redis.key(&format!("events:{{{user}}}:history"))
}

/// The channel of a user's events.
pub(in crate::stream) fn channel(redis: &RedisClient, user: UserId) -> String {
    redis.key(&format!("events:{{{user}}}"))
}

/// Whose channel that is.
pub(in crate::stream) fn user_of_channel(channel: &str) -> Option<UserId> {
    let (_, user) = channel.strip_suffix('}')?.rsplit_once('{')?;
    user.parse().ok()
}

fn new_epoch() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Relays each batch; one script each, all in one round trip. The answers are in the batches' order; what is wrong
/// with one user's keys concerns no other's.
pub(in crate::stream) async fn relay(
    redis: &RedisClient,
    retention: Retention,
    batches: &[Batch],
) -> Result<Vec<Result<Standing, RedisUnavailable>>, RedisUnavailable> {
    let answers = run(redis, RELAY, batches, |command, batch| {
        command
            .arg(position_key(redis, batch.user))
            .arg(history_key(redis, batch.user))
            .arg(new_epoch())
            .arg(retention.position_seconds())
            .arg(channel(redis, batch.user))
            .arg(retention.events)
            .arg(retention.age.as_secs())
            .arg(i32::from(batch.jump));
        for line in &batch.lines {
            command.arg(line.final_no.unwrap_or(0)).arg(&line.text);
        }
    });
    let standing = |answer| {
        let (taken, final_no): (usize, i64) = redis::from_redis_value(answer)?;
        Ok(Standing { taken, final_no: (final_no >= 0).then_some(final_no) })
    };
    Ok(answers.await?.into_iter().map(|answer| Ok(answer.and_then(standing)?)).collect())
}

/// Reads for each user; all in one round trip. The answers are in the order asked; what is wrong with one user's
/// keys concerns no other's.
pub(in crate::stream) async fn read(
    redis: &RedisClient,
    retention: Retention,
    wanted: &[ReadWanted],
) -> Result<Vec<Result<Read, RedisUnavailable>>, RedisUnavailable> {
    let answers = run(redis, READ, wanted, |command, want| {
        let (epoch, seq) = want.cursor.as_ref().map_or(("", 0), |cursor| (cursor.epoch.as_str(), cursor.seq));
        command
            .arg(position_key(redis, want.user))
            .arg(history_key(redis, want.user))
            .arg(new_epoch())
            .arg(retention.position_seconds())
            .arg(want.newest_final)
            .arg(epoch)
            .arg(seq)
            .arg(want.events)
            .arg(want.bytes);
    });
    Ok(answers.await?.into_iter().map(|answer| Ok(answer.and_then(parse_read)?)).collect())
}

async fn run<T>(
    redis: &RedisClient,
    script: &str,
    calls: &[T],
    add: impl Fn(&mut redis::Cmd, &T),
) -> Result<Vec<RedisResult<Value>>, RedisUnavailable> {
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    // loading it each time costs nothing (Redis knows it by its hash) and survives a Redis that forgot it
    let mut pipeline = Pipeline::with_capacity(calls.len() + 1);
    pipeline.cmd("SCRIPT").arg("LOAD").arg(script).ignore();
    let hash = redis::Script::new(script).get_hash().to_owned();
    for call in calls {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&hash).arg(2);
        add(&mut command, call);
        pipeline.add_command(command);
    }
    Ok(pipeline.ignore_errors().query_async(&mut redis.connection()).await?)
}

fn parse_read(answer: Value) -> RedisResult<Read> {
    let fields: Vec<Value> = redis::from_redis_value(answer)?;
    let mut fields = fields.into_iter();
    let epoch = Epoch::new(&next::<String>(&mut fields)?);
    let head = Position { epoch: epoch.clone(), seq: next(&mut fields)?, final_no: next(&mut fields)? };
    let mut entries = Vec::new();
    while let Some(seq) = fields.next() {
        let seq: u64 = redis::from_redis_value(seq)?;
        let line: String = next(&mut fields)?;
        if let Some(event) = parse_line(&epoch, seq, &line) {
            entries.push(Arc::new(event));
        }
    }
    Ok(Read { head, entries })
}

fn next<T: FromRedisValue>(fields: &mut impl Iterator<Item = Value>) -> RedisResult<T> {
    Ok(redis::from_redis_value(fields.next().unwrap_or(Value::Nil))?)
}

/// What Redis keeps of an event: final number, task, class and body, parted by spaces.
pub(in crate::stream) fn line(event: &Event) -> Line {
    let class = match EventClass::of(event.kind) {
        EventClass::Task => 't',
        EventClass::Progress => 'p',
        EventClass::User => 'u',
    };
    let task = event.task.map_or_else(|| "-".to_owned(), |task| task.to_string());
    let text = format!("{} {task} {class} {}", event.final_no.unwrap_or(0), event.body());
    Line { final_no: event.final_no, text }
}

fn parse_line(epoch: &Epoch, seq: u64, line: &str) -> Option<StreamEvent> {
    let mut parts = line.splitn(4, ' ');
    let final_no: i64 = parts.next()?.parse().ok()?;
    let task = match parts.next()? {
        "-" => None,
        task => Some(task.parse::<TaskId>().ok()?),
    };
    let class = match parts.next()? {
        "p" => EventClass::Progress,
        "u" => EventClass::User,
        _ => EventClass::Task,
    };
    Some(StreamEvent {
        position: Some((epoch.clone(), seq)),
        final_no: (final_no > 0).then_some(final_no),
        task,
        class,
        body: parts.next()?.into(),
    })
}

/// What the relay script published: events of one user, ascending.
pub(in crate::stream) fn parse_message(text: &str) -> Option<Vec<Arc<StreamEvent>>> {
    let mut lines = text.split('\n');
    let epoch = Epoch::new(lines.next()?);
    lines
        .map(|line| {
            let (seq, line) = line.split_once(' ')?;
            parse_line(&epoch, seq.parse().ok()?, line).map(Arc::new)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventKind;
    use serde_json::json;

    #[test]
    fn an_event_comes_out_of_its_line_as_it_went_in() {
        let event = Event {
            user: UserId::new(),
            kind: EventKind::TaskFinished,
            task: Some(TaskId::new()),
            data: json!({"output": {"text": "two words\nand a line"}}),
            at: "2026-01-02T03:04:05Z".parse().unwrap(),
            final_no: Some(12),
        };
        let message = format!("e1\n41 {}\n42 {}", line(&event).text, line(&event).text);
        let parsed = parse_message(&message).unwrap();
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[1].position, Some((Epoch::new("e1"), 42)));
        assert_eq!(parsed[1].final_no, Some(12));
        assert_eq!(parsed[1].task, event.task);
        assert_eq!(&*parsed[1].body, event.body());
    }

    #[test]
    fn what_nobody_published_like_that_is_not_an_event() {
        for text in ["", "e1\nx 0 - u {}", "e1\n5", "e1\n5 0 nobody u {}", "e1\n5 0 -"] {
            assert!(parse_message(text).is_none_or(|events| events.is_empty()), "{text}");
        }
    }

    #[test]
    fn a_channel_names_its_user() {
        let user = UserId::new();
        assert_eq!(user_of_channel(&format!("shop:events:{{{user}}}")), Some(user));
        assert_eq!(user_of_channel("events:{nobody}"), None);
        assert_eq!(user_of_channel("events"), None);
    }
}
