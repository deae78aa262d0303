use std::time::Instant;

use super::*;

const SOON: Duration = Duration::from_millis(150);

/// A server that says everything back.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    TaskTracker::new().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            TaskTracker::new().spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ended = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn proxied() -> (Proxy, TcpStream) {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let client = TcpStream::connect(proxy.address()).await.unwrap();
    (proxy, client)
}

async fn say(client: &mut TcpStream, words: &str) -> io::Result<String> {
    client.write_all(words.as_bytes()).await?;
    let mut heard = vec![0; words.len()];
    client.read_exact(&mut heard).await?;
    Ok(String::from_utf8(heard).unwrap())
}

/// Nothing comes, and nobody is told why.
async fn silent(client: &mut TcpStream) -> bool {
    let said = tokio::time::timeout(SOON, say(client, "anyone?")).await;
    said.is_err()
}

#[tokio::test]
async fn in_fair_weather_and_byte_by_byte_everything_arrives() {
    let (proxy, mut client) = proxied().await;
    assert_eq!(say(&mut client, "hello").await.unwrap(), "hello");
    proxy.set(Weather::Drip);
    let long = "x".repeat(40_000);
    assert_eq!(say(&mut client, &long).await.unwrap(), long);
}

#[tokio::test]
async fn what_is_cut_is_reset_and_can_connect_again() {
    let (proxy, mut client) = proxied().await;
    say(&mut client, "hello").await.unwrap();
    assert_eq!(proxy.cut(), 1);
    let error = say(&mut client, "hello").await.unwrap_err();
    assert_ne!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut client, "again").await.unwrap(), "again");
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn what_is_refused_finds_nobody_until_the_weather_turns() {
    let (proxy, mut client) = proxied().await;
    say(&mut client, "hello").await.unwrap();
    proxy.set(Weather::Refuse);
    tokio::time::sleep(SOON).await;
    assert!(say(&mut client, "hello").await.is_err());
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    proxy.set(Weather::Fair);
    tokio::time::sleep(SOON).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut client, "again").await.unwrap(), "again");
}

#[tokio::test]
async fn what_is_delayed_arrives_later() {
    let (proxy, mut client) = proxied().await;
    proxy.set(Weather::Delay(SOON));
    let asked = Instant::now();
    assert_eq!(say(&mut client, "hello").await.unwrap(), "hello");
    assert!(
        asked.elapsed() >= SOON * 2,
        "once each way: {:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn after_a_silence_what_was_said_arrives() {
    let (proxy, mut client) = proxied().await;
    say(&mut client, "hello").await.unwrap();
    proxy.set(Weather::Silence);
    assert!(silent(&mut client).await);
    proxy.set(Weather::Fair);
    let mut heard = [0; 7];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"anyone?");
}

#[tokio::test]
async fn a_forgotten_connection_is_silent_for_ever_while_new_ones_are_fine() {
    let (proxy, mut client) = proxied().await;
    say(&mut client, "hello").await.unwrap();
    let forgotten = proxy.forget();
    assert_eq!(forgotten.count(), 1);
    assert!(silent(&mut client).await);
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut other, "hello").await.unwrap(), "hello");
    assert!(silent(&mut client).await);
    drop(forgotten);
    assert!(say(&mut client, "hello").await.is_err());
    assert_eq!(say(&mut other, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_commit_whose_reply_is_swallowed_has_happened() {
    use sqlx::{Connection, Executor, PgConnection};

    let servers = crate::servers::TestServers::get().await;
    let database = servers.create_database().await;
    let (proxy, url) = Proxy::before(&servers.owner_url_of(&database))
        .await
        .unwrap();
    let mut client = PgConnection::connect(&url).await.unwrap();
    client.execute("CREATE TABLE kept (id int)").await.unwrap();

    proxy.swallow("COMMIT");
    let mut transaction = client.begin().await.unwrap();
    transaction
        .execute("INSERT INTO kept (id) VALUES (1)")
        .await
        .unwrap();
    assert!(transaction.commit().await.is_err());
    assert_eq!(proxy.still_to_swallow(), 0);

    let mut client = PgConnection::connect(&url).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM kept")
        .fetch_one(&mut client)
        .await
        .unwrap();
    assert_eq!(kept, 1);
    client.close().await.unwrap();
    servers.drop_database(&database).await;
}
