use super::*;

#[test]
fn a_second_start_finds_the_data_also_after_a_kill() {
    // as below /root: the servers' user cannot come here when we are root
    let above = tempfile::tempdir().unwrap();
    private_directory(above.path()).unwrap();
    let dir = above.path().join("with space");
    let place = Place::prepare(&dir).unwrap();
    let mut postgres = PrivatePostgres::start(&place, Durability::Relaxed).unwrap();
    let mut redis = PrivateRedis::start(&place, Durability::Default).unwrap();
    block_on(execute(postgres.url("postgres"), "create table kept (n int); insert into kept values (7)"));
    let set = |redis: &PrivateRedis| {
        let mut connection = ::redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        ::redis::cmd("INCR").arg("kept").query::<i64>(&mut connection).unwrap()
    };
    assert_eq!(set(&redis), 1);
    let (first, port) = (postgres.pid().unwrap(), postgres.url("postgres"));

    postgres.kill();
    redis.stop();
    assert!(!is_alive(first));
    postgres.start_again().unwrap();
    assert_eq!(postgres.url("postgres"), port);
    drop((postgres, redis));

    let place = Place::prepare(&dir).unwrap();
    let postgres = PrivatePostgres::start(&place, Durability::Relaxed).unwrap();
    let redis = PrivateRedis::start(&place, Durability::Default).unwrap();
    block_on(execute(postgres.url("postgres"), "do $$ begin assert (select n from kept) = 7; end $$"));
    assert_eq!(set(&redis), 2);
    drop((postgres, redis));
    Place::empty(&dir).unwrap();
    assert!(!dir.join("data").exists());
}

#[test]
fn a_lock_file_of_a_foreign_process_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::prepare(dir.path()).unwrap();
    let mut postgres = PrivatePostgres::start(&place, Durability::Relaxed).unwrap();
    postgres.kill();
    let lock = place.home().join("postgres/postmaster.pid");
    let text = std::fs::read_to_string(&lock).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    std::fs::write(&lock, format!("{}\n{rest}", std::process::id())).unwrap();
    postgres.start_again().unwrap();
    drop(postgres);
    Place::empty(dir.path()).unwrap();
}

#[test]
fn nobody_gets_in_without_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::prepare(dir.path()).unwrap();
    let postgres = PrivatePostgres::start(&place, Durability::Relaxed).unwrap();
    let redis = PrivateRedis::start(&place, Durability::Relaxed).unwrap();
    let strip = |url: String| {
        let mut url = url::Url::parse(&url).unwrap();
        url.set_password(Some("guess")).unwrap();
        url.to_string()
    };
    let guessed = strip(postgres.url("postgres"));
    let refused = block_on(tokio_postgres::connect(&guessed, tokio_postgres::NoTls)).map(|_| ());
    assert!(refused.is_err());
    assert!(::redis::Client::open(strip(redis.url())).unwrap().get_connection().is_err());
    let command_line = std::fs::read_to_string(format!("/proc/{}/cmdline", redis.pid().unwrap())).unwrap();
    let password = url::Url::parse(&redis.url()).unwrap().password().unwrap().to_owned();
    assert!(!command_line.contains(&password));
    drop((postgres, redis));
    Place::empty(dir.path()).unwrap();
}

async fn execute(url: String, sql: &str) {
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
