//! Looks up the addresses of a host, and vets them before anything connects to them.

use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::addresses::{Reach, Rules};

/// Passes on the addresses that `names` finds, if each of them may be connected to. The client
/// connects to exactly these: there is no second look-up.
pub(super) struct VettingResolver {
    pub(super) names: Arc<dyn Resolve>,
    pub(super) rules: Arc<Rules>,
    pub(super) reach: Reach,
}

impl Resolve for VettingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (found, rules, reach) = (
            self.names.resolve(name),
            Arc::clone(&self.rules),
            self.reach,
        );
        Box::pin(async move {
            let addresses: Vec<_> = found.await?.collect();
            // One address that is refused is enough: a name with a public and a private address
            // may be an attack that waits for the public one to fail.
            for address in &addresses {
                rules.vet(address.ip(), reach)?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The look-up of the operating system.
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // Port 0 means the port of the URL.
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<_> = addresses.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
