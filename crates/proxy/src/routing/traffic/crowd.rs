//! How many requests of one client are served at once.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use http::StatusCode;
use parking_lot::Mutex;

use super::Network;

/// The clients whose requests are being served. It holds nothing about a client who has none, so that it is as large as
/// what is under way.
#[derive(Debug)]
pub struct Crowd {
    most: u32,
    /// Whose requests are not counted.
    free: Box<[Network]>,
    /// What those beyond are answered with.
    status: StatusCode,
    clients: Mutex<HashMap<IpAddr, u32>>,
}

/// A request of a client that is being served, until this is dropped.
#[derive(Debug)]
pub struct Guest {
    crowd: Arc<Crowd>,
    client: IpAddr,
}

impl Crowd {
    /// At most so many requests of each client, but for those in `free`.
    pub fn new(most: u32, free: Vec<Network>, status: StatusCode) -> Arc<Self> {
        Arc::new(Crowd { most, free: free.into(), status, clients: Mutex::default() })
    }

    /// Lets a request in; `None` for a client who is not counted.
    ///
    /// # Errors
    /// With the status of the answer when the client has enough already.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Option<Guest>, StatusCode> {
        let client = client.to_canonical();
        if self.free.iter().any(|network| network.contains(client)) {
            return Ok(None);
        }
        let mut clients = self.clients.lock();
        let count = clients.entry(client).or_default();
        if *count >= self.most {
            if *count == 0 {
                clients.remove(&client);
            }
            return Err(self.status);
        }
        *count += 1;
        drop(clients);
        Ok(Some(Guest { crowd: Arc::clone(self), client }))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut clients = self.crowd.clients.lock();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_so_many_at_once_and_leaves_no_trace() {
        let free = vec![Network::parse("10.0.0.0/8").unwrap()];
        let crowd = Crowd::new(2, free, StatusCode::SERVICE_UNAVAILABLE);
        let enter = |client: &str| crowd.enter(client.parse().unwrap());
        let first = enter("1.1.1.1").unwrap().unwrap();
        let mapped = enter("::ffff:1.1.1.1").unwrap();
        assert_eq!(enter("1.1.1.1").unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
        let other = enter("2.2.2.2").unwrap();
        assert!((0..9).all(|_| enter("10.1.2.3").unwrap().is_none()), "who is not counted has any number");
        drop(first);
        let again = enter("1.1.1.1").unwrap();
        assert!(again.is_some() && enter("1.1.1.1").is_err());
        drop((mapped, other, again));
        assert!(crowd.clients.lock().is_empty());
        let nobody = Crowd::new(0, Vec::new(), StatusCode::TOO_MANY_REQUESTS);
        assert!(nobody.enter("1.1.1.1".parse().unwrap()).is_err() && nobody.clients.lock().is_empty());
    }
}
