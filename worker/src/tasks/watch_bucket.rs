//! Sees whether the bucket is there, and starts no job while it is not: what would be bought could not be stored.
//!
//! It takes the slots, as they become free, and gives them back when the bucket is: so nothing is popped that other
//! workers could start, and nobody has to ask.

use std::sync::Arc;

use crate::app::App;

pub(super) async fn run(app: Arc<App>) {
    app.shelf.look().await;
    if app.shelf.takes_more() {
        return;
    }
    let every_slot = u32::try_from(app.slots).unwrap_or(u32::MAX);
    let take = async {
        let _taken = app.free_slots.acquire_many(every_slot).await;
        std::future::pending::<()>().await;
    };
    let back = async {
        while !app.shelf.takes_more() {
            tokio::time::sleep(app.timing.look_every).await;
            app.shelf.look().await;
        }
    };
    tokio::select! {
        () = take => {}
        () = back => {}
        () = app.stopping.cancelled() => {}
    }
}
