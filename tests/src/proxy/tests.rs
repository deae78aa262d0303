use std::time::Instant;

use super::*;

const SHORT_TIME: Duration = Duration::from_millis(150);

/// A server that returns everything it receives.
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

/// Sends a text and returns the answer.
async fn send(client: &mut TcpStream, text: &str) -> io::Result<String> {
    client.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    client.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

/// Whether there is neither an answer nor an error.
async fn is_silent(client: &mut TcpStream) -> bool {
    let answer = tokio::time::timeout(SHORT_TIME, send(client, "anyone?")).await;
    answer.is_err()
}

#[tokio::test]
async fn everything_arrives_at_once_and_byte_by_byte() {
    let (proxy, mut client) = proxied().await;
    assert_eq!(send(&mut client, "hello").await.unwrap(), "hello");
    proxy.set(Weather::Drip);
    let long = "x".repeat(40_000);
    assert_eq!(send(&mut client, &long).await.unwrap(), long);
}

#[tokio::test]
async fn a_cut_connection_is_reset_and_can_be_opened_again() {
    let (proxy, mut client) = proxied().await;
    send(&mut client, "hello").await.unwrap();
    assert_eq!(proxy.cut(), 1);
    let error = send(&mut client, "hello").await.unwrap_err();
    assert_ne!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(send(&mut client, "again").await.unwrap(), "again");
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn connections_are_refused_until_the_network_recovers() {
    let (proxy, mut client) = proxied().await;
    send(&mut client, "hello").await.unwrap();
    proxy.set(Weather::Refuse);
    tokio::time::sleep(SHORT_TIME).await;
    assert!(send(&mut client, "hello").await.is_err());
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    proxy.set(Weather::Fair);
    tokio::time::sleep(SHORT_TIME).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(send(&mut client, "again").await.unwrap(), "again");
}

#[tokio::test]
async fn delayed_data_arrives_later() {
    let (proxy, mut client) = proxied().await;
    proxy.set(Weather::Delay(SHORT_TIME));
    let asked = Instant::now();
    assert_eq!(send(&mut client, "hello").await.unwrap(), "hello");
    assert!(
        asked.elapsed() >= SHORT_TIME * 2,
        "once each way: {:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn data_sent_during_a_silence_arrives_after_it() {
    let (proxy, mut client) = proxied().await;
    send(&mut client, "hello").await.unwrap();
    proxy.set(Weather::Silence);
    assert!(is_silent(&mut client).await);
    proxy.set(Weather::Fair);
    let mut answer = [0; 7];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"anyone?");
}

#[tokio::test]
async fn a_forgotten_connection_stays_silent_and_new_ones_work() {
    let (proxy, mut client) = proxied().await;
    send(&mut client, "hello").await.unwrap();
    let forgotten = proxy.forget();
    assert_eq!(forgotten.count(), 1);
    assert!(is_silent(&mut client).await);
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(send(&mut other, "hello").await.unwrap(), "hello");
    assert!(is_silent(&mut client).await);
    drop(forgotten);
    assert!(send(&mut client, "hello").await.is_err());
    assert_eq!(send(&mut other, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_commit_whose_reply_is_lost_was_executed() {
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
