//! Changes the password of a Redis that is in use: first in the server, and some seconds later in the file that tells it.

use std::path::{Path, PathBuf};

use domain::id::RequestId;
use redis::aio::MultiplexedConnection;
use redis::cmd;

use crate::servers::connect_to_redis;

/// A Redis of the test's own, and the file in which processes find its URL.
pub struct Rotating {
    admin: MultiplexedConnection,
    /// The URL of the server.
    own: String,
    password: String,
    /// The URL for processes, which may lead through a proxy.
    url: String,
    file: PathBuf,
}

impl Rotating {
    /// `own` is the URL of the server, `told` the one for processes, which is written to `file`.
    pub async fn new(own: &str, told: &str, file: &Path) -> Self {
        let admin = connect_to_redis(own).await;
        let (login, _) = own.rsplit_once('@').unwrap();
        let (_, password) = login.rsplit_once(':').unwrap();
        let rotating = Self {
            admin,
            own: own.to_owned(),
            password: password.to_owned(),
            url: told.to_owned(),
            file: file.to_owned(),
        };
        rotating.write();
        rotating
    }

    /// Changes the password and closes every other connection. Processes cannot log in until [`Self::tell`].
    pub async fn rotate(&mut self) {
        let password = RequestId::new().0.simple().to_string();
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("requirepass").arg(&password);
        let () = set.query_async(&mut self.admin).await.unwrap();
        let mut kill = cmd("CLIENT");
        kill.arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let _killed: i64 = kill.query_async(&mut self.admin).await.unwrap();
        self.url = self.url.replace(&self.password, &password);
        self.own = self.own.replace(&self.password, &password);
        self.password = password;
    }

    /// Connects again after the server was restarted with the same password.
    pub async fn reconnect(&mut self) {
        self.admin = connect_to_redis(&self.own).await;
    }

    /// Writes the newest password into the file.
    pub fn tell(&self) {
        self.write();
    }

    fn write(&self) {
        // Replaced atomically, as mounted secrets are.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{}\n", self.url)).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// How many connections the server has accepted since its start, including those whose login failed.
    pub async fn connections(&mut self) -> u64 {
        let mut info = cmd("INFO");
        let info: String = info
            .arg("stats")
            .query_async(&mut self.admin)
            .await
            .unwrap();
        let count = |name: &str| -> u64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().parse().unwrap()
        };
        count("total_connections_received:")
    }

    /// Whether this many apis and workers are connected: each with one connection, and a worker with one more that waits
    /// for jobs.
    pub async fn serves(&mut self, apis: usize, workers: usize) -> bool {
        let mut list = cmd("CLIENT");
        let list: String = list.arg("LIST").query_async(&mut self.admin).await.unwrap();
        let popping = list.lines().filter(|line| line.contains("cmd=bzmpop"));
        // One of the connections is that of this test.
        popping.count() >= workers && list.lines().count() > apis + 2 * workers
    }
}
